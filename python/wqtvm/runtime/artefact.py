"""The artefact: a folder with all that it takes to run a compiled network.

``library.so`` is the code, ``weights.safetensors`` the parameters, ``wqtvm.json`` the manifest with
the size and SHA-256 of both. The hashes find accidents, not malice: the library is code that
runs as soon as it is loaded, so load only what you would run.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    AlreadyExistsError,
    ArtefactCorruptError,
    ArtefactError,
    ArtefactMissingFileError,
    ArtefactVersionError,
    ConfigError,
    MissingDependencyError,
    TargetNotRunnableError,
)
from ..target import TargetRecord, lookup
from ..tensor_spec import TensorSpec
from ..versions import versions
from . import cpu
from .manifest import LIBRARY, WEIGHTS, FileRecord, Manifest
from .model import CompiledModel

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "wqtvm.json"

_COMPILERS = ("g++", "clang++", "c++")
_LARGEST_MANIFEST = 1 << 28  # bytes


def check_destination(path: str | Path, overwrite: bool) -> None:
    """Check that an artefact may be written to ``path``.

    Raises
    ------
    AlreadyExistsError
        If something is there, and overwriting was not asked for, or it is not just an artefact.
    ArtefactError
        If the folder that it would be in does not exist.
    """
    path = _absolute(path)
    if not path.parent.is_dir():
        raise ArtefactError(f"{path}: the folder {path.parent} does not exist; make it first")
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise AlreadyExistsError(
            f"{path} exists; give another path, or overwrite=True (--overwrite) to replace it"
        )
    if path.is_symlink() or not (path / MANIFEST).is_file():
        raise AlreadyExistsError(
            f"{path} is not an artefact, so it is not replaced; remove it yourself, "
            "or give another path"
        )
    others = sorted({entry.name for entry in path.iterdir()} - {MANIFEST, LIBRARY, WEIGHTS})
    if others:
        raise AlreadyExistsError(
            f"{path} has other files, too, so it is not replaced: {', '.join(others)}; "
            "move them, or give another path"
        )


def export(model: CompiledModel, path: str | Path, *, overwrite: bool = False) -> None:
    """Write a compiled network as an artefact.

    The folder appears complete or not at all. Code for another machine is linked by a cross
    compiler (aarch64-linux-gnu-g++); CUDA code is stored as source, and compiled where it is
    loaded.

    Raises
    ------
    AlreadyExistsError, ArtefactError
        As ``check_destination``; ArtefactError also if the folder cannot be written or the library
        cannot be linked.
    MissingDependencyError
        If there is no compiler to link the library.
    ConfigError
        If the model itself was loaded from an artefact.
    """
    check_destination(path, overwrite)
    path = _absolute(path)
    compiler = linker(model.target)
    if not hasattr(model.executable, "jit"):
        raise ConfigError(
            f"{path}: this network was itself loaded from an artefact; copy that folder"
        )
    try:
        # A folder of its own, so that it can take the old artefact, too; of no one else's.
        with tempfile.TemporaryDirectory(
            prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
        ) as workplace:
            new = Path(workplace) / "new"
            new.mkdir()
            _write(model, new, compiler)
            check_destination(path, overwrite)
            _move(new, path, Path(workplace) / "old" if overwrite else None)
    except OSError as error:
        raise ArtefactError(f"{path} cannot be written: {error}") from error


def read_manifest(path: str | Path) -> Manifest:
    """Read what an artefact says about itself, without loading it.

    Raises
    ------
    ArtefactError
        One of its subclasses, if the folder or its manifest is missing, altered, or too new.
    """
    folder = _absolute(path)
    if not folder.exists():
        raise ArtefactMissingFileError(f"{folder} does not exist; is the path right?")
    if not folder.is_dir():
        raise ArtefactError(f"{folder} is not a folder; an artefact is one: is the path right?")
    with _open(folder, MANIFEST) as file:
        content = file.read(_LARGEST_MANIFEST + 1)
    if len(content) > _LARGEST_MANIFEST:
        raise ArtefactCorruptError(f"{folder / MANIFEST}: it is too large; export it again")
    return Manifest.from_bytes(content, folder / MANIFEST)


def load(path: str | Path) -> CompiledModel:
    """Load an artefact, after checking all of it.

    Raises
    ------
    ArtefactMissingFileError
        If the folder, or one of its files, is not there.
    ArtefactCorruptError
        If a file is truncated, altered or a link, or the weights are not those of the manifest.
    ArtefactVersionError
        If a newer wqtvm wrote it, or it is for another TVM.
    ArtefactError
        If it cannot be read.
    TargetNotRunnableError
        If this machine lacks what the code needs.
    """
    folder = _absolute(path)
    manifest = read_manifest(folder)
    _check_versions(manifest, folder)
    # What the code needs is what its compiler was told, whatever the target is now.
    target = dataclasses.replace(lookup(manifest.target), features=manifest.features)
    if manifest.machine != platform.machine():
        raise TargetNotRunnableError(
            f"{folder} is for {manifest.machine}, but this machine is {platform.machine()}; "
            "compile the network for this one"
        )
    cpu.require(target)
    for name, record in manifest.files.items():
        _verify(folder, name, record)
    params = _read_weights(folder, manifest.parameters)
    return CompiledModel(
        _load_library(folder / LIBRARY),
        params,
        plan=manifest.plan,
        config=manifest.config,
        target=target,
        input_specs=manifest.inputs,
        output_specs=manifest.outputs,
        single_output=manifest.single_output,
    )


def _absolute(path: str | Path) -> Path:
    # Not resolve(): a link that is to be overwritten has to be seen.
    return Path(os.path.abspath(path))  # noqa: PTH100


def linker(target: TargetRecord) -> str:
    """Return the program that links a library for the target."""
    if _machine(target) == platform.machine():
        names = (os.environ["CXX"],) if os.environ.get("CXX") else _COMPILERS
        remedy = "install one (package g++), or name yours by the environment variable CXX"
    else:
        names = (f"{target.mtriple}-g++",)
        remedy = f"install it (package g++-{target.mtriple})"
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise MissingDependencyError(
        f"target {target.name}: linking its library takes a compiler, and there is no "
        f"{' or '.join(names)}; {remedy}"
    )


def _machine(target: TargetRecord) -> str:
    """Return the architecture of the target's library; the host of CUDA code is this machine."""
    return platform.machine() if target.architecture == "cuda" else target.architecture


def _write(model: CompiledModel, folder: Path, compiler: str) -> None:
    from safetensors.numpy import save_file

    try:
        model.executable.export_library(str(folder / LIBRARY), cc=compiler)
    except RuntimeError as error:
        raise ArtefactError(f"the library cannot be linked by {compiler}: {error}") from error
    params = model.params
    save_file(params, folder / WEIGHTS)
    manifest = Manifest(
        versions=versions(),
        target=model.target.name,
        machine=_machine(model.target),
        features=model.target.features,
        plan=model.plan,
        config=model.config,
        inputs=model.input_specs,
        outputs=model.output_specs,
        single_output=model.single_output,
        parameters=tuple(_spec(name, value) for name, value in params.items()),
        files={name: _record(folder / name) for name in (LIBRARY, WEIGHTS)},
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def _move(new: Path, path: Path, old: Path | None) -> None:
    """Put the new folder in its place; what was there goes to ``old``, or stays if this fails."""
    if old is not None and os.path.lexists(path):
        path.rename(old)
    try:
        new.rename(path)
    except BaseException as error:
        if old is not None and old.exists():
            old.rename(path)
        if isinstance(error, OSError) and error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            raise AlreadyExistsError(
                f"{path} was made by someone else in the meantime; give another path"
            ) from error
        raise


def _spec(name: str, value: NDArray[Any]) -> TensorSpec:
    return TensorSpec(name, tuple(value.shape), value.dtype.name)


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@contextmanager
def _open(folder: Path, name: str) -> Iterator[io.BufferedReader]:
    """Open a file of an artefact, which must be in the folder itself: a link could lead anywhere.

    Raises
    ------
    ArtefactMissingFileError, ArtefactCorruptError, ArtefactError
        If it is not there, is no regular file, or cannot be read.
    """
    path = folder / name
    try:
        # O_NONBLOCK: opening a pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ArtefactMissingFileError(
            f"{path} does not exist; {folder} is no artefact, or an incomplete copy of one"
        ) from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ArtefactCorruptError(f"{path} is a link; copy the file itself there") from error
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ArtefactCorruptError(f"{path} is not a regular file; export the network again")
    with os.fdopen(descriptor, "rb") as file:
        try:
            yield file
        except OSError as error:
            raise ArtefactError(f"{path} cannot be read: {error}") from error


def _verify(folder: Path, name: str, record: FileRecord) -> None:
    path = folder / name
    with _open(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size != record.size:
            raise ArtefactCorruptError(
                f"{path} has {size} bytes, the manifest says {record.size}; "
                "copy it again, or export the network again"
            )
        if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
            raise ArtefactCorruptError(
                f"{path} was altered: its SHA-256 is not the manifest's; "
                "copy it again, or export the network again"
            )


def _check_versions(manifest: Manifest, folder: Path) -> None:
    installed = versions()["tvm"]
    wanted = manifest.versions.get("tvm")
    if wanted != installed:
        raise ArtefactVersionError(
            f"{folder} was compiled with TVM {wanted}, and this is {installed}, which may call "
            "its code otherwise; compile the network again"
        )


def _read_weights(folder: Path, parameters: tuple[TensorSpec, ...]) -> dict[str, NDArray[Any]]:
    """Return the parameters in the manifest's order, checked against it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtefactCorruptError(f"{path} is no safetensors file: {error}") from error
    found = {name: _spec(name, value) for name, value in tensors.items()}
    wanted = {spec.name: spec for spec in parameters}
    for name in {**wanted, **found}:
        if wanted.get(name) != found.get(name):
            raise ArtefactCorruptError(
                f"{path}: tensor {found.get(name, 'is missing')}, but the manifest says "
                f"{wanted.get(name, f'there is no {name}')}; export the network again"
            )
    return {name: tensors[name] for name in wanted}


def _load_library(path: Path) -> Any:
    import tvm

    try:
        return tvm.runtime.load_module(str(path))
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be loaded: {error}") from error
