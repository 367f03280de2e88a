"""What the float network is shown: calls with the user's inputs, or with made-up ones.

Pictures are made up in 0 to 1. A network that gives a picture of such values back is at home there.
Of others, such as classifiers, nobody says whether they want 0 to 1, 0 to 255 or values around 0,
which is of consequence where biases are added and where activations are cut off. They are shown the
two extremes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.made_up import completed, is_picture, tells
from ..tensor_spec import TensorSpec
from .float_network import FloatNetwork, Sample

_EXTREMES = ((-2.0, 2.0), (0.0, 255.0))  # black and white: mean 0 and variance 1; bytes
_OVERSHOOT = 0.5  # of a picture that a network gives back, beyond black and white
_CONTRAST = 0.5  # at least, from its least value to its largest


def made_up_samples(
    network: FloatNetwork, specs: Sequence[TensorSpec], examples: Sequence[Any] | None, seed: int
) -> tuple[list[Sample], bool]:
    """The network on a made-up call, or on two where the range of its pictures is open.

    And whether that is typical: whether its layers are likely to give what they give in use, since
    examples say all there is to say, or the network gives the pictures back.
    """
    unit, *extremes = (
        completed(specs, examples, seed, span=span) for span in ((0.0, 1.0), *_EXTREMES)
    )
    first = network.run(unit)
    pictures = any(not np.array_equal(a, b) for a, b in zip(unit, extremes[0], strict=True))
    if not pictures:
        return [first], examples is not None and all(map(tells, examples))
    if any(map(_like_the_inputs, first.outputs)):
        return [first], True
    return [network.run(inputs) for inputs in extremes], False


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
