"""What written-out kernels ask of an ISA: a vector instruction, or a few, as an expression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Instructions:
    """Expressions on whole vectors.

    Attributes
    ----------
    dot : (int32 counts, int32 lanes that each repeat one step's activations, weights of one step)
        to the counts with the products added.
    quantize : float32 values, already divided by their step, to the nearest even integer, plus the
        zero point, in the dot product's activation dtype. Defined within -127 to 127.
    """

    dot: Callable[[Any, Any, Any], Any]
    quantize: Callable[[Any], Any]
