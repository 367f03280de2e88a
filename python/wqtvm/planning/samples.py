"""What the float network is shown: calls with the user's inputs, or with made-up ones.

Pictures are made up in 0 to 1. A network that gives a picture of such values back is at home there.
Of others, such as classifiers, nobody says whether they want 0 to 1 or 0 to 255, which is of
consequence where biases are added: they are shown both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.made_up import completed, is_picture
from ..tensor_spec import TensorSpec
from .float_network import FloatNetwork, Sample

_PEAKS = (1.0, 255.0)  # white
_OVERSHOOT = 0.5  # of a picture that a network gives back, beyond black and white
_CONTRAST = 0.5  # at least, from its least value to its largest


def made_up_samples(
    network: FloatNetwork, specs: Sequence[TensorSpec], examples: Sequence[Any] | None, seed: int
) -> list[Sample]:
    """The network on one made-up call, or on one for each range that its pictures may have."""
    dark, bright = (completed(specs, examples, seed, peak=peak) for peak in _PEAKS)
    first = network.run(dark)
    ambiguous = any(not np.array_equal(a, b) for a, b in zip(dark, bright, strict=True))
    if not ambiguous or any(map(_like_the_inputs, first.outputs)):
        return [first]
    return [first, network.run(bright)]


def calls(values: Sequence[Any]) -> list[Sequence[Any]]:
    """Inputs or outputs by call: those of one call are a list of that alone."""
    return list(values) if values and isinstance(values[0], list | tuple) else [values]


def _like_the_inputs(output: NDArray[Any]) -> bool:
    low, high = float(output.min()), float(output.max())
    return (
        is_picture(output.shape)
        and low >= -_OVERSHOOT
        and high <= 1 + _OVERSHOOT
        and high - low >= _CONTRAST
    )
