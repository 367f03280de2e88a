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
    levels : float32 values, already divided by their step, to the nearest even integer, plus the
        level of zero, float32, as uint8. Defined within 0 to 256, which becomes 255.
    """

    dot: Callable[[Any, Any, Any], Any]
    quantize: Callable[[Any], Any]
    levels: Callable[[Any, Any], Any]


@dataclass(frozen=True)
class TileInstructions:
    """Statements on the two-dimensional tile registers of a thread, which are numbered.

    Attributes
    ----------
    configure : of the load of the first byte of a configuration.
    release : all registers.
    load, store : of a register, the load of its first element in memory, and the bytes from one of
        its rows to the next.
    zero : sets a register to zero.
    multiply : of three registers: adds the products of the second's values, as activations are, and
        the third's, as weights are, to the int32, or of bfloat16 the float32, of the first.
    """

    configure: Callable[[Any], Any]
    release: Callable[[], Any]
    load: Callable[[int, Any, Any], Any]
    store: Callable[[int, Any, Any], Any]
    zero: Callable[[int], Any]
    multiply: Callable[[int, int, int], Any]
