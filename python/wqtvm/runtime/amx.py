"""AMX tile registers: the kernel's permission to use them, and their configuration.

The permission is the whole process's; the configuration is one thread's, so each worker that
runs tile instructions configures its own.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from ..errors import ConfigError, TilePermissionError
from .native import native_function

PALETTE = 1

TileShape = tuple[int, int]
"""Rows, and bytes in a row, of one tile register; (0, 0) leaves it unused."""


def request_permission() -> None:
    """Ask the kernel for the tile registers; it is asked once in the life of the process.

    Raises
    ------
    TilePermissionError
        If the CPU has no AMX or the kernel refuses.
    """
    status = int(native_function("amx_request_permission")())
    if status == errno.ENODEV:
        raise TilePermissionError(
            "this CPU, or its operating system, has no AMX tile registers; "
            'compile for target "wq", which is this host'
        )
    if status != 0:
        raise TilePermissionError(
            "the kernel refuses the use of the AMX tile registers "
            f"({errno.errorcode.get(status, status)}: {os.strerror(status)}); it takes Linux 5.16 "
            "or later, and an alternate signal stack, if the process has one, of at least the "
            "size that AT_MINSIGSTKSZ says"
        )


def tile_config_bytes(tiles: Sequence[TileShape]) -> bytes:
    """Return the 64 bytes that ``ldtilecfg`` reads for these tiles, the first one tmm0.

    Raises
    ------
    ConfigError
        If there are more than 8 tiles, or one is larger than 16 rows of 64 bytes.
    """
    try:
        return bytes(native_function("amx_tile_config_bytes")(PALETTE, *_columns(tiles)))
    except ValueError as error:
        raise ConfigError(f"AMX tile configuration: {error}") from error


def load_tile_config(tiles: Sequence[TileShape]) -> None:
    """Configure the tile registers of the calling thread; what they held is lost.

    Raises
    ------
    ConfigError
        As ``tile_config_bytes``.
    TilePermissionError
        As ``request_permission``.
    """
    tile_config_bytes(tiles)
    request_permission()
    native_function("amx_load_tile_config")(PALETTE, *_columns(tiles))


def release_tiles() -> None:
    """Return the calling thread's tile registers to their initial state.

    Raises
    ------
    TilePermissionError
        As ``request_permission``.
    """
    request_permission()
    native_function("amx_release_tiles")()


def _columns(tiles: Sequence[TileShape]) -> tuple[list[int], list[int]]:
    return [rows for rows, _ in tiles], [row_bytes for _, row_bytes in tiles]
