"""A network by the name of what makes it, and its weights from a file."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import torch

from .errors import ArtefactCorruptError, ArtefactMissingFileError, ConfigError, InputMismatchError

_SHOWN = 4  # names of a list in a message


def make_model(factory: str) -> torch.nn.Module:
    """Return what ``package.module:factory`` makes; the current folder is searched, too.

    Raises
    ------
    ConfigError
        If there is no such factory, it fails, or it makes no ``torch.nn.Module``.
    """
    module_name, colon, attribute = factory.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(f"factory is {factory!r}; give package.module:factory")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"factory {factory}: there is no module {error.name!r}; run the command in the folder "
            "that has it, or install it"
        ) from error
    except Exception as error:
        raise ConfigError(
            f"factory {factory}: importing {module_name} failed: {_told(error)}"
        ) from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"factory {factory}: {found!r} has no {name!r}; is it misspelt?")
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(f"factory {factory} is {found!r}; give a function or a class")
    if not isinstance(found, torch.nn.Module):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(
                f"factory {factory}, called without arguments, failed: {_told(error)}"
            ) from error
    if not isinstance(found, torch.nn.Module):
        raise ConfigError(
            f"factory {factory} made a {type(found).__name__}; it has to return a torch.nn.Module"
        )
    return found


def load_weights(model: torch.nn.Module, path: Path) -> None:
    """Load a safetensors file, which must have every weight of the model and no other.

    Raises
    ------
    ArtefactMissingFileError, ArtefactCorruptError
        If the file is not there, or is no safetensors file.
    InputMismatchError
        If its names or shapes are not the model's.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise ArtefactMissingFileError(f"weights {path}: there is no such file")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtefactCorruptError(
            f"weights {path}: no safetensors file ({error}); convert others by "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
        ) from error
    wanted = model.state_dict()
    problems = [
        *_listed("it lacks", [name for name in wanted if name not in tensors]),
        *_listed("the model has no", [name for name in tensors if name not in wanted]),
        *_listed(
            "of another shape are",
            [
                f"{name} {list(tensors[name].shape)}, not {list(wanted[name].shape)}"
                for name in wanted
                if name in tensors and tensors[name].shape != wanted[name].shape
            ],
        ),
    ]
    if problems:
        raise InputMismatchError(f"weights {path}: {'; '.join(problems)}; are they for this model?")
    model.load_state_dict(tensors)


def _listed(what: str, names: list[str]) -> list[str]:
    """Return nothing for no names; else one text with the first of them."""
    if not names:
        return []
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return [f"{what} {', '.join(names[:_SHOWN])}{rest}"]


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
