"""Calibration: factors of input channels, mean errors of output channels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import wqtvm
from wqtvm import WinogradConfig
from wqtvm.emulation import emulate_network
from wqtvm.errors import ConfigError
from wqtvm.frontend import from_torch
from wqtvm.planning import plan_network
from wqtvm.quantization import sqnr_db
from wqtvm.quantization.balance import balance_factors, balanced_weights
from wqtvm.transform import pipeline


@given(st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_factors_do_not_depend_on_the_size_of_inputs_and_weights(channels, seed, exponent):
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((5, channels, 3, 3))
    rms = generator.uniform(0.01, 10, channels)
    factors = balance_factors(weight, rms)
    assert len(factors) == channels
    assert min(factors) > 0
    assert np.exp(np.log(factors).mean()) == pytest.approx(1, rel=0.01)
    scale = 10.0**exponent
    # Three digits are kept: the last may fall on the other side of a tie.
    np.testing.assert_allclose(balance_factors(weight * scale, rms / scale), factors, rtol=0.011)


def test_channels_that_are_silent_or_without_weights_keep_finite_factors():
    weight = np.ones((4, 3, 3, 3))
    weight[:, 1] = 0
    factors = balance_factors(weight, np.array([1.0, 1.0, 0.0]))
    assert all(0.05 < f < 20 for f in factors)
    assert balance_factors(weight, np.zeros(3)) == (1.0,) * 3
    assert balance_factors(np.zeros((4, 3, 3, 3)), np.ones(3)) == (1.0,) * 3
    assert np.isfinite(balanced_weights(weight, np.array(factors))).all()


@pytest.mark.parametrize("algorithm", ["winograd", "direct"])
def test_calibrated_network_is_nearer_to_float(algorithm):
    """Channels of very different size behind a ReLU; compiled as emulated."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 33, 3, padding=1), nn.ReLU(), nn.Conv2d(33, 17, 3, padding=1, bias=False)
    ).eval()
    with torch.no_grad():
        network[0].weight *= torch.logspace(-1.5, 1.5, 33)[:, None, None, None]
        network[0].bias *= torch.logspace(-1.5, 1.5, 33)
    x = torch.from_numpy(np.random.default_rng(0).random((1, 3, 34, 31), np.float32))
    with torch.no_grad():
        exact = network(x).numpy()
    found = {}
    for calibrate in (False, True):
        config = WinogradConfig(algorithm, exclude=("0",), calibrate=calibrate)
        compiled = wqtvm.compile(network, (x,), config=config, calibration=(x,))
        layers = {layer.name: layer for layer in compiled.plan.layers}
        y = compiled(x).numpy()
        # A value next to a tie may be rounded to its other side.
        assert sqnr_db(emulate_network(network, layers)(x).detach().numpy(), y) > 60
        assert (layers["2"].balance is not None) == calibrate
        assert (layers["2"].correction is not None) == calibrate
        found[calibrate] = sqnr_db(exact, y)
    assert found[True] > found[False] + 2


class Doubled(nn.Module):
    """A network that gives pictures, or one that does not."""

    def __init__(self, gives_pictures: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gives_pictures = gives_pictures
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.convolution(x)
        return x + 0.1 * y if self.gives_pictures else 10 * y


def test_made_up_pictures_serve_a_network_that_gives_pictures_back():
    x, config = torch.zeros(1, 3, 24, 24), WinogradConfig(calibrate=True)
    prepared = pipeline.prepare(from_torch(Doubled(True).eval(), (x,)).module)
    (layer,) = plan_network(prepared, config, examples=(x,)).layers
    assert layer.correction is not None

    prepared = pipeline.prepare(from_torch(Doubled(False).eval(), (x,)).module)
    with pytest.raises(ConfigError, match="give calibration inputs"):
        plan_network(prepared, config, examples=(x,))
    auto = plan_network(prepared, WinogradConfig(algorithm="auto"), examples=(x,))
    assert auto.layers[0].correction is auto.layers[0].balance is None
    picture = torch.linspace(0, 1, 24).expand(1, 3, 24, 24).contiguous()
    for real in ({"inputs": (picture,)}, {"examples": (picture,)}):
        (layer,) = plan_network(prepared, config, **real).layers
        assert layer.correction is not None
