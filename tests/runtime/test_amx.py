from __future__ import annotations

import struct

import pytest

from wqtvm.errors import ConfigError, TargetNotRunnableError, TilePermissionError
from wqtvm.runtime import amx
from wqtvm.runtime.cpu import cpu_features
from wqtvm.runtime.native import native_function

without_amx = pytest.mark.skipif("amx_tile" in cpu_features(), reason="this CPU offers amx_tile")


def test_tile_config_is_laid_out_as_ldtilecfg_reads_it():
    tiles = [(16, 64), (8, 32), (0, 0), (1, 2), (3, 4), (5, 6), (7, 8), (16, 1)]
    data = amx.tile_config_bytes(tiles)
    assert len(data) == 64
    # Intel SDM volume 1, 18.3: palette, start row, 14 reserved, 16 x uint16 bytes in a row (8 of
    # them reserved), 16 x uint8 rows (8 of them reserved); little-endian.
    palette, start_row, reserved, *rest = struct.unpack("<BB14s16H16B", data)
    assert (palette, start_row, reserved) == (1, 0, bytes(14))
    assert rest[:16] == [row_bytes for _, row_bytes in tiles] + [0] * 8
    assert rest[16:] == [rows for rows, _ in tiles] + [0] * 8


def test_no_tile_at_all_is_a_configuration():
    assert amx.tile_config_bytes([]) == b"\x01" + bytes(63)


@pytest.mark.parametrize(
    ("tiles", "message"),
    [
        ([(1, 4)] * 9, "9 tiles are given; AMX has 8"),
        ([(16, 64), (17, 64)], "tile 1 is 17 rows of 64 bytes"),
        ([(16, 65)], "tile 0 is 16 rows of 65 bytes"),
        ([(0, 64)], "tile 0 is 0 rows of 64 bytes"),
        ([(16, 0)], "tile 0 is 16 rows of 0 bytes"),
        ([(-1, 64)], "tile 0 is -1 rows"),
        ([(1 << 32, 64)], "tile 0 is 4294967296 rows"),
    ],
)
def test_a_configuration_that_would_fault_is_refused(tiles, message):
    with pytest.raises(ConfigError, match=message):
        amx.tile_config_bytes(tiles)
    with pytest.raises(ConfigError, match=message):
        amx.load_tile_config(tiles)


@without_amx
@pytest.mark.parametrize(
    "use",
    [amx.request_permission, lambda: amx.load_tile_config([(16, 64)]), amx.release_tiles],
    ids=["request", "load", "release"],
)
def test_without_amx_the_refusal_is_clear(use):
    with pytest.raises(TilePermissionError, match="has no AMX tile registers"):
        use()


def test_a_refusal_by_the_kernel_says_why(monkeypatch):
    monkeypatch.setattr(amx, "native_function", lambda name: lambda: 22)
    with pytest.raises(TargetNotRunnableError, match=r"kernel refuses .*EINVAL"):
        amx.request_permission()


@without_amx
def test_the_native_functions_guard_themselves():
    # A tile instruction without permission would end the process.
    with pytest.raises(RuntimeError, match="may not use the AMX tile registers"):
        native_function("amx_release_tiles")()
    with pytest.raises(RuntimeError, match="may not use the AMX tile registers"):
        native_function("amx_load_tile_config")(1, [16], [64])


@pytest.mark.isa("amx_tile")
def test_tiles_can_be_configured_and_released():
    amx.request_permission()
    amx.request_permission()
    amx.load_tile_config([(16, 64)] * 8)
    amx.release_tiles()
