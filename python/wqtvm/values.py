"""Tensors as the command line spells them: shapes, numbers, ``.npy`` files and images."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .errors import AlreadyExistsError, ConfigError, InputMismatchError, MissingDependencyError
from .runtime.made_up import random_inputs
from .tensor_spec import TensorSpec

Array = NDArray[Any]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
RANDOM = "random"

_SHAPE = re.compile(r"(?P<shape>\d+(x\d+)*)(:(?P<dtype>[a-z]+\d*))?(=(?P<value>[-+.\deE]+))?")
_DTYPES = ("float32", "int32", "int64", "bool")


def example(text: str, seed: int = 0) -> Array:
    """Return the input that a text describes, where it must also say the shape.

    Takes ``1x3x64x64`` (made up: a picture, or noise), ``1x77:int64``, ``1x1x1x1=0.1`` (all of one
    value), and the names of ``.npy`` and image files.

    Raises
    ------
    ConfigError
        If the text is none of these, or the file cannot be read.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        return _read(Path(text), "give a shape (1x3x64x64), or an .npy or image file")
    shape = tuple(int(size) for size in match["shape"].split("x"))
    dtype = match["dtype"] or "float32"
    if dtype not in _DTYPES:
        raise ConfigError(f"input {text!r}: dtype is {dtype}; give one of {', '.join(_DTYPES)}")
    if match["value"] is None:
        return random_inputs([TensorSpec(text, shape, dtype)], seed)[0]
    return np.full(shape, _number(match["value"], text), dtype=dtype)


def inputs_for(specs: Sequence[TensorSpec], texts: Sequence[str], seed: int) -> list[Array]:
    """Return the inputs of a network: texts are ``random``, numbers, ``.npy`` and image files.

    Without any text all inputs are random.

    Raises
    ------
    ConfigError
        If a text is none of these, or a file cannot be read.
    InputMismatchError
        If there are too many or too few.
    """
    texts = texts or [RANDOM] * len(specs)
    if len(texts) != len(specs):
        wanted = "; ".join(map(str, specs))
        raise InputMismatchError(f"{len(texts)} inputs are given; the network takes {wanted}")
    noise = random_inputs(specs, seed)
    return [_input(*triple) for triple in zip(texts, specs, noise, strict=True)]


def check_destination(path: Path, overwrite: bool) -> None:
    """Check that a tensor may be written to ``path``.

    Raises
    ------
    AlreadyExistsError
        If the file is there and is not to be overwritten.
    ConfigError
        If it is of an unknown format, or its folder does not exist.
    """
    if path.suffix not in (".npy", *IMAGE_SUFFIXES):
        raise ConfigError(f"{path}: suffix is {path.suffix!r}; give .npy or .png")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not overwrite:
        raise AlreadyExistsError(f"{path} exists; give another path, or --overwrite to replace it")


def check_count(paths: Sequence[Path], specs: Sequence[TensorSpec]) -> None:
    """Check that there are no more files than outputs.

    Raises
    ------
    ConfigError
        If there are.
    """
    if len(paths) > len(specs):
        raise ConfigError(
            f"{len(paths)} output files are given; the network gives {'; '.join(map(str, specs))}"
        )


def write(path: Path, array: Array, overwrite: bool) -> None:
    """Write an array to an ``.npy`` file, or one image (1, channels, rows, columns) to an image.

    Raises
    ------
    AlreadyExistsError, ConfigError
        As ``check_destination``; ConfigError also if the array is no image.
    """
    check_destination(path, overwrite)
    if path.suffix == ".npy":
        _write_whole(path, lambda file: np.save(file, array))
    else:
        _write_image(path, array)


def _input(text: str, spec: TensorSpec, noise: Array) -> Array:
    if text == RANDOM:
        return noise
    try:
        number = float(text)
    except ValueError:
        return _read(Path(text), "give `random`, a number, or an .npy or image file")
    return np.full(spec.shape, number, dtype=spec.dtype)


def _number(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ConfigError(f"input {text!r}: {value!r} is no number") from error


def _read(path: Path, remedy: str) -> Array:
    if not path.is_file():
        raise ConfigError(f"input {str(path)!r}: there is no such file; {remedy}")
    if path.suffix in IMAGE_SUFFIXES:
        return _read_image(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"input {str(path)!r}: {error}; {remedy}") from error
    if not isinstance(array, np.ndarray):
        raise ConfigError(f"input {str(path)!r}: it is an archive of arrays; {remedy}")
    return array


def _read_image(path: Path) -> Array:
    """Return float32 (1, 3, rows, columns), 0 black and 1 white."""
    image_module = _pillow(path)
    try:
        with image_module.open(path) as image:
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    except OSError as error:
        raise ConfigError(f"input {str(path)!r}: {error}; give another file") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]) / np.float32(255)


def _write_image(path: Path, array: Array) -> None:
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[1] not in (1, 3):
        raise ConfigError(
            f"{path}: an output of shape {list(array.shape)} is no image (1, 1 or 3, rows, "
            "columns); give an .npy file"
        )
    # A NaN has no colour; black is as visible as any.
    pixels = np.nan_to_num(array[0].astype(np.float32)).clip(0, 1) * 255
    bytes_ = np.rint(pixels).astype(np.uint8).transpose(1, 2, 0)
    image = _pillow(path).fromarray(bytes_[..., 0] if bytes_.shape[2] == 1 else bytes_)
    kinds = {".jpg": "jpeg"}
    kind = kinds.get(path.suffix, path.suffix.removeprefix("."))
    _write_whole(path, lambda file: image.save(file, kind))


def _write_whole(path: Path, write_to: Callable[[BinaryIO], None]) -> None:
    """Write a file that appears complete or not at all."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                write_to(file)
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}; give another path") from error


def _pillow(path: Path) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: images take the package pillow, which is not installed; "
            "run `pip install pillow`"
        ) from error
    return Image
