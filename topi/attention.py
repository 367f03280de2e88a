"""Attention, softmax(scale Q K^T) V: what is computed, without a word of any ISA.

    keys = scale log2(e) K
    Q, keys -> scores -> most -> powers = 2^(scores - most) -> totals
    powers, V -> sums, sums / totals -> output

Axes: (z, h) an image and its head, q a query, k a key, c a channel of queries and keys, v one of
values. In precision bfloat16 the operands of both products (Q, keys, powers, V) are rounded to
bfloat16; sums, and the totals of powers, are of float32 in either.

Source: Vaswani et al., Attention Is All You Need, 2017, equation 1.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tvm import te, tirx

from ..errors import ConfigError
from .arithmetic import bfloat16_bits, bfloat16_value, float32

OPERATOR = "wq.attention"
ANNOTATION = "wq.attention"  # of the block of the result: the workload
PRECISIONS = ("float32", "bfloat16")
AXES = "zhn"  # before the channels: images, heads, queries or keys
TENSORS = ("queries", "keys", "values", "output")


@dataclass(frozen=True)
class AttentionWorkload:
    """Shapes of one attention.

    Attributes
    ----------
    batch, heads, queries, keys : extents.
    channels, value_channels : of queries and keys, and of values and the result, a head.
    scale : of the scores.
    precision : of the operands of products, one of PRECISIONS.
    orders : of each of TENSORS, in which order its axes before the channels are: z images, h heads,
        n queries or keys.

    Raises
    ------
    ConfigError
        If a number is below 1, or a precision or an order unknown.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    channels: int
    value_channels: int
    scale: float
    precision: str = "float32"
    orders: tuple[str, str, str, str] = (AXES,) * 4

    def __post_init__(self) -> None:
        extents = (self.batch, self.heads, self.queries, self.keys)
        if min(*extents, self.channels, self.value_channels) < 1:
            raise ConfigError(f"{self} has an extent below 1; give positive ones")
        if self.precision not in PRECISIONS:
            listed = ", ".join(PRECISIONS)
            raise ConfigError(f"precision is {self.precision!r}; give one of {listed}")
        for order in self.orders:
            if sorted(order) != sorted(AXES):
                raise ConfigError(f"orders are {self.orders}; give orders of {', '.join(AXES)}")

    @property
    def key_scale(self) -> float:
        """What keys are multiplied by: scores are of powers of two, not of e."""
        return self.scale * math.log2(math.e)

    def shape(self, tensor: str) -> tuple[int, int, int, int]:
        """Shape of one of TENSORS."""
        length = self.queries if tensor in ("queries", "output") else self.keys
        channels = self.channels if tensor in ("queries", "keys") else self.value_channels
        first, second, third = self._ordered(tensor, self.batch, self.heads, length)
        return (first, second, third, channels)

    def place(self, tensor: str, z: Any, h: Any, at: Any, c: Any) -> tuple[Any, ...]:
        """Index of a channel of one of TENSORS."""
        return (*self._ordered(tensor, z, h, at), c)

    def _ordered(self, tensor: str, z: Any, h: Any, n: Any) -> list[Any]:
        values = dict(zip(AXES, (z, h, n), strict=True))
        return [values[axis] for axis in self.orders[TENSORS.index(tensor)]]

    def annotations(self) -> dict[str, Any]:
        """What the block of the result tells the schedule."""
        return {"wq.operator": OPERATOR, ANNOTATION: {**asdict(self), "orders": list(self.orders)}}

    @classmethod
    def of(cls, annotations: Any) -> AttentionWorkload:
        """The workload that ``annotations`` tells of."""
        fields = dict(annotations[ANNOTATION].items())
        orders = tuple(str(each) for each in fields.pop("orders"))
        scale, precision = float(fields.pop("scale")), str(fields.pop("precision"))
        extents = {str(name): int(value) for name, value in fields.items()}
        return cls(**extents, scale=scale, precision=precision, orders=orders)  # type: ignore[arg-type]


def attention(work: AttentionWorkload) -> tirx.PrimFunc:
    """Define one attention.

    Parameters of the function: queries, keys, values, the result, float32, ``work.shape`` each.
    """
    q, k, v = (te.placeholder(work.shape(name), name=name) for name in TENSORS[:3])
    z, h, n, m = work.batch, work.heads, work.queries, work.keys

    def operand(value: Any) -> Any:
        return bfloat16_value(bfloat16_bits(value)) if work.precision == "bfloat16" else value

    def key(z: Any, h: Any, m: Any, c: Any) -> Any:
        return k(*work.place("keys", z, h, m, c)) * float32(work.key_scale)

    c = te.reduce_axis((0, work.channels), "c")
    scores = te.compute(
        (z, h, n, m),
        lambda z, h, n, m: te.sum(
            operand(q(*work.place("queries", z, h, n, c))) * operand(key(z, h, m, c)), axis=c
        ),
        name="scores",
    )
    at = te.reduce_axis((0, m), "at")
    most = te.compute((z, h, n), lambda *i: te.max(scores(*i, at), axis=at), name="most")
    powers = te.compute(
        (z, h, n, m), lambda *i: tirx.exp2(scores(*i) - most(*i[:3])), name="powers"
    )
    of = te.reduce_axis((0, m), "of")
    totals = te.compute((z, h, n), lambda *i: te.sum(powers(*i, of), axis=of), name="totals")
    by = te.reduce_axis((0, m), "by")
    sums = te.compute(
        (z, h, n, work.value_channels),
        lambda z, h, n, c: te.sum(
            operand(powers(z, h, n, by)) * operand(v(*work.place("values", z, h, by, c))), axis=by
        ),
        name="sums",
    )

    def result(*place: Any) -> Any:
        at = dict(zip(work.orders[3], place[:3], strict=True))
        row = [at[axis] for axis in AXES]
        return sums(*row, place[3]) / totals(*row)

    output = te.compute(work.shape("output"), result, name="output", attrs=work.annotations())
    # Relax counts in int64.
    return te.create_prim_func([q, k, v, output], index_dtype_override="int64")
