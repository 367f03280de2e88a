from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from wqtvm.cli import main
from wqtvm.config import WinogradConfig
from wqtvm.demo import demo
from wqtvm.demo.demo import FLOAT, draw, label, same_threads, time_in_turns
from wqtvm.demo.images import SIGMA
from wqtvm.errors import ConfigError, MissingDependencyError
from wqtvm.runtime.threads import get_num_threads


@pytest.fixture(scope="module")
def small(weights):
    """The demonstration on a part of a photograph."""
    whole = demo.photograph
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "photograph", lambda name: whole(name)[:, 40:137, 120:241].copy())
        yield demo.demonstrate("chelsea", WinogradConfig(), threads=1, runs=1)


def test_int8_is_nearly_as_good_as_float(small):
    names = [variant.name for variant in small.variants]
    assert names == [
        FLOAT,
        "wqtvm F(4,3) hadamard",
        "direct int8, a step a filter",
        "direct int8, a step a tap",
    ]
    exact, *quantized = small.variants
    assert exact.psnr_db > small.noisy_psnr_db + 10
    # 8 bits cost FFDNet some tenths of a dB; a wrong step or tile costs tens.
    assert all(variant.psnr_db > exact.psnr_db - 0.5 for variant in quantized)
    assert all(variant.seconds > 0 for variant in small.variants)
    assert (small.threads, small.runs) == (1, 1)


def test_float_result_is_pytorchs(small):
    network = demo.pretrained()
    with torch.inference_mode():
        wanted = network(torch.from_numpy(small.noisy)[None], torch.full((1, 1, 1, 1), SIGMA))
    # One thread or more: oneDNN may sum in another order.
    np.testing.assert_allclose(small.variants[0].result, wanted[0].numpy(), rtol=0, atol=1e-5)


def test_picture_shows_all_images(small):
    picture = draw(small)
    _, height, width = small.clean.shape
    assert picture.size == (6 * width + 5 * 8, height + 26)
    pixels = np.asarray(picture)[26:]
    clean = np.rint(small.clean * 255).astype(np.uint8).transpose(1, 2, 0)
    assert np.array_equal(pixels[:, -width:], clean)
    assert len(np.unique(np.asarray(picture)[:26])) > 1  # the labels


def test_picture_takes_pillow(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingDependencyError, match="pip install pillow"):
        draw(small)


def test_command(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "demonstrate", lambda *_, **__: small)
    arguments = ["demo", "--output", str(tmp_path / "demo.png")]
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code
    out, err = capsys.readouterr()
    assert re.search(r"noisy +20\.\d\d", out)
    assert re.search(r"PyTorch float32 +\d\d\.\d\d +\d+\.\d +1\.00", out)
    assert re.search(r"direct int8, a step a tap +\d\d\.\d\d +\d+\.\d +\d+\.\d\d", out)
    assert "Wrote" in err
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "exists; give another path, or --overwrite" in capsys.readouterr().err


def test_same_threads_and_back():
    before = torch.get_num_threads(), get_num_threads()
    with same_threads(1) as used:
        assert used == 1
        assert (torch.get_num_threads(), get_num_threads()) == (1, 1)
    assert (torch.get_num_threads(), get_num_threads()) == before
    with pytest.raises(ConfigError), same_threads(100_000):
        pass
    assert (torch.get_num_threads(), get_num_threads()) == before


def test_functions_take_turns():
    calls = []
    found = time_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=3)
    assert calls == ["a", "b"] * 3
    assert list(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (WinogradConfig(tile=6, precision="full"), "wqtvm F(6,3) full"),
        (WinogradConfig(algorithm="direct"), "wqtvm direct"),
    ],
)
def test_labels(config, text):
    assert label(config) == text
