"""The sets that come with wqtvm: found by name, and no worse than the formula they started from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wqtvm.errors import ConfigError
from wqtvm.fastconv import BilinearAlgorithm, correlated_scales, direct, sfc, winograd
from wqtvm.learning import resolve_scales, shipped_scales
from wqtvm.learning.emulation import Layer
from wqtvm.learning.learned import shipped_files
from wqtvm.learning.noise import Noise
from wqtvm.quantization import Scheme
from wqtvm.quantization.scheme import STEPS

SETS = {
    "F(2,3) best": winograd(2),
    "F(3,3) best": winograd(3),
    "F(4,3) best": winograd(4),
    "F(4,3) lavin": winograd(4, "lavin"),
    "F(5,3) best": winograd(5),
    "F(6,3) best": winograd(6),
    "SFC-4": sfc(4),
    "SFC-6": sfc(6),
}


def test_every_set_is_found_by_its_algorithm() -> None:
    assert {name: algorithm for name, (algorithm, _) in shipped_files().items()} == SETS
    for algorithm in SETS.values():
        found = shipped_scales(algorithm)
        assert found.provenance.ended == "converged"
        assert found.provenance.steps == "channel"
        assert found.provenance.after_db >= found.provenance.before_db
        assert resolve_scales("learned", algorithm) == found.scales
        assert found.scales.name == "learned"
    # The same points by another name.
    assert shipped_scales(winograd(6, "lavin")) == shipped_scales(winograd(6))


@pytest.mark.parametrize(
    "algorithm", [winograd(3, "complex"), winograd(4, (0, 1, -1, 3, -3)), direct()]
)
def test_there_is_no_set_for_every_algorithm(algorithm: BilinearAlgorithm) -> None:
    with pytest.raises(
        ConfigError, match=r"none come with wqtvm for .* F\(4,3\) lavin, .*learn-sc"
    ):
        resolve_scales("learned", algorithm)


@pytest.mark.parametrize("algorithm", SETS.values(), ids=list(SETS))
@pytest.mark.parametrize("steps", STEPS)
def test_sets_are_no_worse_than_the_formula(algorithm: BilinearAlgorithm, steps: str) -> None:
    scheme = Scheme(algorithm, correlated_scales(algorithm), "full", steps=steps)
    weight = np.random.default_rng(1).standard_normal((64, 64, 3, 3)).astype(np.float32)
    layer = Layer(weight, scheme)
    d = Noise().tiles(64, algorithm.t, 64, torch.Generator().manual_seed(1))
    formula, learned = (
        layer.sqnr_db(d, *torch.tensor([scales.s_b, scales.s_g], dtype=torch.float64)).item()
        for scales in (correlated_scales(algorithm), shipped_scales(algorithm).scales)
    )
    # Formulas are within 0.2 dB of the best; on one draw of noise both may be a few hundredths off,
    # and some tenths with steps that the sets were not learned for.
    assert learned > formula - {"channel": 0.05, "axis": 0.2, "tile": 0.5}[steps]
