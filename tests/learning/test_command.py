"""The command ``wqtvm learn-scales``."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from wqtvm.cli import main
from wqtvm.fastconv import sfc
from wqtvm.learning import LearnedScales, learn
from wqtvm.runtime.artefact import read_manifest

NETWORK = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))

def pointwise():
    return nn.Conv2d(3, 3, 1)
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def wqtvm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command line in a folder with networks; returns exit code and what it printed."""
    (tmp_path / "learn_nets.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "learn_nets", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


LEARN = ("learn-scales", "learn_nets:net", "--tile", "2", "--iterations", "10", "-o")


def test_learn_then_compile(wqtvm: Run) -> None:
    code, out, err = wqtvm(*LEARN, "mine.safetensors")
    assert code == 0, err
    assert re.search(r"SQNR [\d.]+ dB by scales 'correlated', [\d.]+ dB by learned ones", out)
    assert "Learning scales of F(2,3) with points 0, 1, -1, inf on learn_nets:net" in err
    assert "Wrote mine.safetensors and mine.json" in err
    made = LearnedScales.load("mine.safetensors").provenance
    assert made.weights == "torch.nn.modules.container.Sequential, 2 layers"
    code, _, err = wqtvm(
        "compile", "learn_nets:net", "--input", "1x3x8x8", "--tile", "2", "--precision", "full",
        "--scales", "mine.safetensors", "-o", "net.wq",
    )  # fmt: skip
    assert code == 0, err
    # The artefact can say what it computes without the file of scales.
    found = LearnedScales.load("mine.safetensors").scales
    Path("mine.safetensors").unlink()
    manifest = read_manifest("net.wq")
    assert manifest.config.scales == "mine.safetensors"
    assert manifest.plan.layer("0").scheme().scales == found


def test_every_option(wqtvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "_RANDOM_CHANNELS", 8)
    code, out, err = wqtvm(
        "learn-scales", "--random", "--tile", "4", "--points", "0,1,-1,2,-2", "--noise",
        "correlated", "--rho", "0.5", "--steps", "tile", "--group-size", "0", "--optimizer", "adam",
        "--iterations", "2", "--seed", "7", "--output", "mine.safetensors", "--quiet",
    )  # fmt: skip
    assert (code, out, err) == (0, "", "")
    made = LearnedScales.load("mine.safetensors").provenance
    assert (made.algorithm, made.points) == ("F(4,3)", ("0", "1", "-1", "2", "-2", "inf"))
    assert (made.noise, made.rho, made.steps, made.group_size) == ("correlated", 0.5, "tile", 0)
    assert (made.optimizer, made.iterations, made.seed) == ("adam", 2, 7)


def test_symbolic_fourier_convolutions(wqtvm: Run) -> None:
    code, _, err = wqtvm(
        "learn-scales", "learn_nets:net", "--algorithm", "sfc", "--iterations", "1",
        "-o", "mine.safetensors",
    )  # fmt: skip
    assert code == 0, err
    assert "Learning scales of SFC-4(4,3) on learn_nets:net" in err
    found = LearnedScales.load("mine.safetensors")
    assert found.scales_for(sfc(4)) == found.scales


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "a.safetensors"), "give either a network, MODULE:FACTORY, or --random"),
        (("learn_nets:net", "--random", "-o", "a.safetensors"), "give either a network"),
        (("--random", "--weights", "w", "-o", "a.safetensors"), "--random without --weights"),
        (("learn_nets:pointwise", "-o", "a.safetensors"), "Conv2d has no 3x3 convolution"),
        (
            ("learn_nets:net", "--kernel", "5", "-o", "a.safetensors"),
            "has no 5x5 convolution",
        ),
        (("learn_nets:net", "-o", "a.npz"), r"scales are saved as \*\.safetensors"),
        (("learn_nets:net", "--group-size", "3", "-o", "a.safetensors"), "group_size is 3"),
        (("learn_nets:net", "--weights", "w", "-o", "a.safetensors"), "weights w: there is no"),
    ],
)
def test_wrong_arguments(wqtvm: Run, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = wqtvm("learn-scales", "--quiet", *arguments)
    assert (code, out) == (2, "")
    assert re.search(message, err)
    assert not Path("a.safetensors").exists()


def test_nothing_is_replaced_unless_asked(wqtvm: Run) -> None:
    Path("mine.json").write_text("precious")
    code, _, err = wqtvm(*LEARN, "mine.safetensors")
    assert code == 2
    assert "mine.json exists" in err
    assert Path("mine.json").read_text() == "precious"
    assert wqtvm(*LEARN, "mine.safetensors", "--overwrite")[0] == 0


def test_an_interruption_keeps_the_best_so_far(wqtvm: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(learner: object, count: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(learn._Learner, "_step", interrupt)
    code, out, _ = wqtvm(*LEARN, "mine.safetensors")
    assert code == 130
    assert "0 iterations, interrupted" in out
    assert LearnedScales.load("mine.safetensors").provenance.ended == "interrupted"
