"""The reader of ncnn files, on files made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.accuracy.networks.ncnn import read
from torch.nn import functional

from wqtvm.errors import ArtefactCorruptError

PARAM = """7767517
5 6
Input       in    0 1 data
Split       split 1 2 data a b
Convolution conv  1 1 a c 0=4 1=3 4=1 5=1 6=108 9=2 -23310=1,0.1
PReLU       prelu 1 1 c d 0=4
Convolution last  1 1 d e 0=3 1=3 4=1 6=108
Eltwise     sum   2 1 e b out 0=1 -23301=2,0.5,1.0
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    first, bias = rng.standard_normal((4, 3, 3, 3)).astype("<f2"), rng.standard_normal(4)
    slope, last = rng.random(4).astype("<f4"), rng.standard_normal((3, 4, 3, 3)).astype("<f4")
    content = b"".join(
        [
            np.uint32(0x01306B47).tobytes(), first.tobytes(), bias.astype("<f4").tobytes(),
            slope.tobytes(), np.uint32(0).tobytes(), last.tobytes(),
        ]
    )  # fmt: skip
    param, weights = tmp_path / "net.param", tmp_path / "net.bin"
    param.write_text(PARAM)
    weights.write_bytes(content)
    return param, weights, [first, bias.astype(np.float32), slope, last]


def test_half_and_single_precision_weights(files: tuple[Path, Path, list[np.ndarray]]) -> None:
    param, weights, arrays = files
    first, bias, slope, last = (torch.from_numpy(np.asarray(a, np.float32)) for a in arrays)
    x = torch.randn(1, 3, 7, 9, generator=torch.Generator().manual_seed(0))
    hidden = functional.leaky_relu(functional.conv2d(x, first, bias, padding=1), 0.1)
    hidden = functional.prelu(hidden, slope)
    wanted = 0.5 * functional.conv2d(hidden, last, padding=1) + x
    torch.testing.assert_close(read(param, weights)(x), wanted, rtol=1e-6, atol=1e-6)


def test_damaged_files_are_refused(files: tuple[Path, Path, list[np.ndarray]]) -> None:
    param, weights, _ = files
    content = weights.read_bytes()
    weights.write_bytes(content[:-8])
    with pytest.raises(ArtefactCorruptError, match="ends in layer last"):
        read(param, weights)
    weights.write_bytes(content + b"1234")
    with pytest.raises(ArtefactCorruptError, match="4 bytes are left over"):
        read(param, weights)
    weights.write_bytes(b"\x01\x02\x03\x04" + content[4:])
    with pytest.raises(ArtefactCorruptError, match="layer conv: weights have tag 0x4030201"):
        read(param, weights)
    weights.write_bytes(content)
    param.write_text(PARAM.replace("PReLU ", "Dreams"))
    with pytest.raises(ArtefactCorruptError, match="layer prelu is a Dreams"):
        read(param, weights)
    param.write_text("no")
    with pytest.raises(ArtefactCorruptError, match="starts with 'no'"):
        read(param, weights)
