"""The benchmark of attention and linear layers prints a row a layer, with what it checked."""

from __future__ import annotations

import pytest
from benchmarks import tokens


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "SECONDS", 1e-4)


def arguments(monkeypatch: pytest.MonkeyPatch, *options: str) -> None:
    monkeypatch.setattr("sys.argv", ["tokens", "--threads", "1", "--rounds", "1", *options])


@pytest.mark.isa("avx2")
@pytest.mark.parametrize(("layer", "columns"), [("classifier", 3), ("16x16, 8", 1)])
def test_a_row(
    layer: str,
    columns: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments(monkeypatch, "--target", "wq/x86-avx2", "--only", layer)
    assert tokens.main() == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if layer in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")[1:]]
    times = [cell for cell in cells if cell.endswith(")")]
    assert len(times) == columns + 2  # and PyTorch's
    assert all(float(cell.split("(")[1][:-1]) > 30 for cell in times)  # dB
    assert float(cells[-2]) > 0  # PyTorch's float32 by ours


def test_an_unknown_target(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments(monkeypatch, "--target", "wq/abacus")
    assert tokens.main() == 2
    assert "abacus" in capsys.readouterr().err
