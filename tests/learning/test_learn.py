"""Learning: it gains, repeats itself, stops, and says what cannot be learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import wqtvm
from wqtvm.errors import AlgorithmError, ConfigError, NonFiniteError, NotEligibleError
from wqtvm.fastconv import ScaleSet, correlated_scales, row_norm_scales, winograd
from wqtvm.learning import learn
from wqtvm.learning.learn import eligible_weights, learn_scales, random_weights
from wqtvm.learning.noise import Noise

F43 = winograd(4)


def weights(count: int = 3, channels: int = 12) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    shape = (channels, channels, 3, 3)
    return {f"layer.{i}": rng.standard_normal(shape).astype(np.float32) for i in range(count)}


def quick(**changes: Any) -> wqtvm.LearnedScales:
    return learn_scales(weights(), F43, **{"iterations": 30, **changes})


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_it_gains_where_there_is_something_to_gain(
    monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    # From scales that are wrong by up to e either way; closed forms are close to the best already.
    def wrong(self: Noise, algorithm: object) -> ScaleSet:
        scales = correlated_scales(F43)
        spoilt = tuple(s * f for s, f in zip(scales.s_b, (1, 2.7, 0.4, 1, 0.4, 1), strict=True))
        return ScaleSet("wrong", spoilt, scales.s_g)

    monkeypatch.setattr(Noise, "closed_form", wrong)
    rate = {"sgd": 0.02, "adam": 0.1}[optimizer]
    made = quick(optimizer=optimizer, learning_rate=rate).provenance
    assert made.after_db > made.before_db + 2


def test_the_same_seed_gives_the_same_bits() -> None:
    reports: list[tuple[int, int, float]] = []
    first = quick(seed=3, progress=lambda *report: reports.append(report))
    assert quick(seed=3) == first
    assert quick(seed=4).scales != first.scales
    assert [report[:2] for report in reports] == [(i + 1, 30) for i in range(30)]
    gains = [report[2] for report in reports]
    assert gains == sorted(gains)
    assert gains[-1] == first.provenance.after_db >= first.provenance.before_db


def test_layers_learn_scales_of_their_own_from_the_shared_ones() -> None:
    reports: list[tuple[int, int]] = []
    shared = quick()
    own = quick(per_layer=True, progress=lambda done, limit, _: reports.append((done, limit)))
    assert own.scales == shared.scales
    assert set(own.layers) == set(weights())
    assert len(set(own.layers.values())) > 1
    assert own.provenance.after_db >= shared.provenance.after_db
    assert own == quick(per_layer=True)
    assert reports[-1][1] == 4 * 30
    assert reports == sorted(reports)


def test_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(quick(iterations=10))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]


def test_how_it_was_learned_is_recorded() -> None:
    made = quick(noise=Noise("uniform"), steps="tile", group_size=16, seed=5).provenance
    assert (made.algorithm, made.points, made.precision) == ("F(4,3)", F43.points, "full")
    assert (made.noise, made.rho, made.start) == ("uniform", None, "row-norm")
    assert (made.steps, made.group_size, made.weight_steps) == ("tile", 16, "tap")
    assert (made.optimizer, made.learning_rate, made.layers_per_iteration) == ("sgd", 0.01, 2)
    assert (made.seed, made.iterations, made.ended) == (5, 30, "limit")
    assert made.weights == "3 layers as given"
    assert made.torch == torch.__version__


def test_it_stops_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn, "_LEAST_GAIN_DB", 0.5)  # more than there is to gain
    made = quick(iterations=1000).provenance
    assert made.ended == "converged"
    # Three checks, ten steps apart, without gain: at the first rate, and after each of three falls.
    assert made.iterations == 120


def test_an_interruption_keeps_the_best_so_far() -> None:
    def interrupt(done: int, limit: int, best_db: float) -> None:
        if done == 20:
            raise KeyboardInterrupt

    found = quick(progress=interrupt)
    assert found.provenance.ended == "interrupted"
    assert found.provenance.iterations == 20
    assert found.scales == quick(iterations=20).scales


def test_a_network_gives_its_plain_3x3_convolutions() -> None:
    plain = nn.Conv2d(4, 5, 3, padding=1, bias=False)
    dead = nn.Conv2d(5, 5, 3)
    nn.init.zeros_(dead.weight)
    network = nn.Sequential(
        plain,
        dead,
        nn.Conv2d(5, 5, 3, stride=2),
        nn.Conv2d(5, 5, 3, dilation=2),
        nn.Conv2d(5, 5, 3, groups=5),
        nn.Conv2d(5, 5, (1, 3)),
        nn.ModuleDict({"inner": nn.Conv2d(5, 2, 3).double()}),
    )
    found = eligible_weights(network)
    assert list(found) == ["0", "6.inner"]
    np.testing.assert_array_equal(found["0"], plain.weight.detach().numpy())
    assert not eligible_weights(network, taps=5)
    made = learn_scales(network, winograd(2), iterations=1).provenance
    assert made.weights == "torch.nn.modules.container.Sequential, 2 layers"


def test_kernels_of_five_have_scales_of_their_own() -> None:
    five = nn.Conv2d(4, 5, 5)
    network = nn.Sequential(nn.Conv2d(4, 4, 3), five)
    np.testing.assert_array_equal(
        eligible_weights(network, taps=5)["1"], five.weight.detach().numpy()
    )
    learned = learn_scales(network, winograd(2, r=5), iterations=20)
    assert learned.provenance.algorithm == "F(2,5)"
    assert learned.provenance.after_db >= learned.provenance.before_db
    with pytest.raises(NotEligibleError, match=r"give \(output channels, input channels, 5, 5\)"):
        learn_scales(weights(), winograd(2, r=5), iterations=1)


def test_weights_may_be_tensors() -> None:
    given = {name: torch.from_numpy(weight) for name, weight in weights().items()}
    assert learn_scales(given, F43, iterations=1) == quick(iterations=1)  # type: ignore[arg-type]


def test_random_weights_serve_any_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({weight.tobytes() for weight in random_weights(0).values()}) == 4
    monkeypatch.setattr(learn, "_RANDOM_CHANNELS", 8)
    made = learn_scales(None, winograd(2), iterations=1).provenance
    assert made.weights == "4 random layers, 8 to 8 channels"


def one(weight: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
    return {"body.3": weight}


ONES = np.ones((4, 4, 3, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("given", "changes", "error", "message"),
    [
        (nn.Conv2d(3, 3, 1), {}, NotEligibleError, "Conv2d has no 3x3 convolution"),
        ({}, {}, NotEligibleError, "there are no weights"),
        (
            one(ONES[..., :1]),
            {},
            NotEligibleError,
            r"layer body\.3: weight has shape \(4, 4, 3, 1\)",
        ),
        (one(0 * ONES), {}, NotEligibleError, r"layer body\.3: all weights are zero"),
        (one(np.nan * ONES), {}, NonFiniteError, r"layer body\.3: a weight is not finite"),
        (one(ONES), {"optimizer": "lbfgs"}, ConfigError, "optimizer is 'lbfgs'; give one of sgd"),
        (one(ONES), {"iterations": 0}, ConfigError, "iterations is 0; give at least 1"),
        (one(ONES), {"layers_per_iteration": 0}, ConfigError, "layers_per_iteration is 0"),
        (one(ONES), {"learning_rate": 0.0}, ConfigError, r"learning_rate is 0\.0"),
        (one(ONES), {"steps": "row"}, ConfigError, "steps is 'row'"),
    ],
)
def test_what_cannot_be_learned_is_refused(
    given: Any, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        learn_scales(given, F43, **changes)


def test_noise_is_what_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    for noise in (Noise("gaussian"), Noise("uniform"), Noise("correlated", 0.9)):
        d = noise.tiles(2000, 6, 8, generator).numpy()
        assert d.dtype == np.float32
        assert d.shape == (2000, 6, 6, 8)
        # 576000 values, in the correlated case 16000 independent fields: 1 percent.
        assert d.mean() == pytest.approx(0, abs=0.02)
        assert d.var() == pytest.approx(1, abs=0.02)
        expected = 0.9 if noise.kind == "correlated" else 0
        for first, second in ((d[:, 1:], d[:, :-1]), (d[:, :, 1:], d[:, :, :-1])):
            assert np.mean(first * second) == pytest.approx(expected, abs=0.02)
    assert abs(Noise("uniform").tiles(9, 6, 8, generator)).max() <= 3**0.5
    assert Noise("uniform").closed_form(F43) == row_norm_scales(F43)
    assert Noise(rho=0.5).closed_form(F43) == correlated_scales(F43)
    assert str(Noise()) == "correlated (rho 0.9)"
    with pytest.raises(ConfigError, match="noise is 'pink'; give one of correlated, gaussian"):
        Noise("pink")
    with pytest.raises(ConfigError, match="rho is 1; it must be"):
        Noise(rho=1)


def test_learned_scales_are_a_value() -> None:
    found = quick(iterations=1)
    assert dataclasses.replace(found) == found
    with pytest.raises(
        AlgorithmError, match=r"learned for F\(4,3\) .* not for F\(2,3\) with points"
    ):
        found.scales_for(winograd(2))
