"""The native library: found beside the package, loaded on first use."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wqtvm

from ..errors import NativeLibraryError

LIBRARY = Path("lib") / "libwqtvm_native.so"
NAMESPACE = "wqtvm.runtime"

NativeFunction = Callable[..., Any]
"""A function of the native library; tvm_ffi converts its arguments and its result."""


@functools.cache
def library_path() -> Path:
    """Return the path of the native library.

    Raises
    ------
    NativeLibraryError
        If it is not there.
    """
    # An editable install has two folders: the sources, and what CMake has installed.
    folders = [Path(folder) for folder in wqtvm.__path__]
    for folder in folders:
        if (folder / LIBRARY).is_file():
            return folder / LIBRARY
    searched = ", ".join(str(folder / LIBRARY.parent) for folder in folders)
    raise NativeLibraryError(
        f"{LIBRARY.name} is not in {searched}; it is built by `pip install .` at the top of the "
        "repository (for development `pip install -e .`), which needs a C++17 compiler"
    )


@functools.cache
def native_function(name: str) -> NativeFunction:
    """Return the global function ``wqtvm.runtime.<name>`` of the native library.

    Raises
    ------
    NativeLibraryError
        If the library is missing, cannot be loaded, or is older than this function.
    """
    import tvm_ffi

    _load()
    function: NativeFunction | None = tvm_ffi.get_global_func(
        f"{NAMESPACE}.{name}", allow_missing=True
    )
    if function is None:
        raise NativeLibraryError(
            f"{library_path()} has no function {name!r}: it was built from older sources; "
            "build it again with `pip install .`"
        )
    return function


@functools.cache
def _load() -> object:
    import tvm_ffi

    path = library_path()
    try:
        # Kept by the cache: unloading would leave dangling global functions behind.
        return tvm_ffi.load_module(str(path))
    except (OSError, RuntimeError) as error:
        raise NativeLibraryError(
            f"{path} cannot be loaded ({error}); build it again on this machine with "
            "`pip install .`"
        ) from error
