"""The float32 and quantization arithmetic of the operators, as TE expressions.

The rules are those of ``wqtvm.quantization.arithmetic``, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import tvm_ffi
from tvm import ir, te, tirx
from tvm.ir.expr import TensorLoad
from tvm.s_tir.stmt import SBlock, SBlockRealize

from ..fastconv import evaluate_rows
from ..quantization.arithmetic import LARGEST, ZERO_BELOW

_SIGN_MASK = 0x7FFFFFFF
_INFINITY_BITS = 0x7F800000

# TVM makes a vectorized loop serial if it calls an operator that is not said to be elementwise, and
# nearbyint is not: LLVM was left with scalars. At this level a word of TVM's own does not clash.
ir.register_op_attr("tirx.nearbyint", "TVectorizable", True, level=11)


def _llvm_fma(call: Any) -> Any:
    return tirx.call_llvm_pure_intrin(call.ty.dtype, "llvm.fma", *call.args)


# TVM's own rule, fmuladd, rounds twice where there is no instruction that fuses.
tirx.register_intrin_lowering("tirx.fma", target="llvm", f=_llvm_fma, level=11)


class _FloatOps:
    """The operations of ``evaluate_rows`` on TE expressions of float32."""

    def add(self, a: Any, b: Any, /) -> Any:
        return a + b

    def sub(self, a: Any, b: Any, /) -> Any:
        return a - b

    def neg(self, a: Any, /) -> Any:
        return float32(-1.0) * a

    def mul(self, coefficient: float, a: Any, /) -> Any:
        return float32(coefficient) * a

    def fma(self, coefficient: float, a: Any, accumulator: Any, /) -> Any:
        return tirx.op.fma(float32(coefficient), a, accumulator)


_FLOAT_OPS = _FloatOps()


def float32(value: float | np.floating[Any]) -> Any:
    """A float32 constant."""
    return tirx.const(float(value), "float32")


def int32(value: int) -> Any:
    """An int32 constant."""
    return tirx.const(int(value), "int32")


def bfloat16_value(bits: Any) -> Any:
    """The float32 value of bits of bfloat16, uint16 or vectors of it: the rest of its bits is 0."""
    wide = tirx.Cast(like(bits, "uint32"), bits)
    return tirx.reinterpret(like(bits, "float32"), wide << _bits_like(bits, 16))


def bfloat16_bits(value: Any) -> Any:
    """The bits of the bfloat16 nearest to a float32 value, ties to even; a quiet NaN stays one.

    TVM's own conversion evaluates the value twice.
    """
    bits = tirx.Var("bits", like(value, "uint32"))
    is_odd = (bits >> _bits_like(value, 16)) & _bits_like(value, 1)
    upper = (bits + _bits_like(value, 0x7FFF) + is_odd) >> _bits_like(value, 16)
    return tirx.Let(
        bits,
        tirx.reinterpret(like(value, "uint32"), value),
        tirx.Cast(like(value, "uint16"), upper),
    )


def like(value: Any, dtype: str) -> str:
    """A dtype in as many lanes as a value has."""
    _, _, lanes = str(value.ty.dtype).partition("x")
    return f"{dtype}x{lanes}" if lanes else dtype


def _bits_like(value: Any, number: int) -> Any:
    return tirx.const(number, like(value, "uint32"))


def pick(choices: Sequence[Any], index: Any) -> Any:
    """choices[index]; one of them remains once the loop over index is unrolled."""
    picked = choices[-1]
    for position in range(len(choices) - 2, -1, -1):
        picked = tirx.Select(index == position, choices[position], picked)
    return picked


def transform(
    name: str,
    source: te.Tensor,
    matrix: Sequence[Sequence[float | Fraction]],
    axis: int,
    order: Sequence[int] | None = None,
) -> te.Tensor:
    """Multiply a float matrix to one axis of a float32 tensor, as ``evaluate_rows`` does.

    ``order`` permutes the result's axes: result[index] = product[index[i] for i in order].
    """
    return _matrix_pass(
        name, source, axis, order, len(matrix), partial(evaluate_rows, matrix, ops=_FLOAT_OPS)
    )


def integer_transform(
    name: str, source: te.Tensor, matrix: Sequence[Sequence[int]], axis: int
) -> te.Tensor:
    """Multiply an integer matrix to one axis of an int8 tensor, exactly, in int32."""

    def row_sum(row: Sequence[int], inputs: Sequence[Any]) -> Any:
        terms = [
            value.astype("int32") * int32(coefficient)
            for coefficient, value in zip(row, inputs, strict=True)
            if coefficient
        ]
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def row_sums(inputs: Sequence[Any]) -> list[Any]:
        return [row_sum(row, inputs) for row in matrix]

    return _matrix_pass(name, source, axis, None, len(matrix), row_sums)


def _matrix_pass(
    name: str,
    source: te.Tensor,
    axis: int,
    order: Sequence[int] | None,
    rows: int,
    evaluate: Callable[[Sequence[Any]], list[Any]],
) -> te.Tensor:
    shape = list(source.shape)
    columns = int(shape[axis])
    shape[axis] = rows
    if order is not None:
        shape = [shape[order.index(i)] for i in range(len(shape))]

    def value(*index: Any) -> Any:
        at = list(index) if order is None else [index[i] for i in order]
        inputs = [source(*at[:axis], i, *at[axis + 1 :]) for i in range(columns)]
        return pick(evaluate(inputs), at[axis])

    return te.compute(shape, value, name=name)


def absolute_bits(value: Any) -> Any:
    """The bits of abs(value) as int32: their order is that of magnitudes, NaN above all."""
    return tirx.reinterpret("int32", value) & int32(_SIGN_MASK)


@dataclass(frozen=True)
class Steps:
    """Steps of a quantized tensor and their inverses, float32 of one shape."""

    step: te.Tensor
    inverse: te.Tensor

    def quantize(self, value: Any, index: Sequence[Any]) -> Any:
        """Round value / step[index] to the nearest even integer within -127 to 127, int32."""
        scaled = tirx.nearbyint(value * self.inverse(*index))
        # Ordered comparisons, so that a NaN becomes 127: its step is NaN, its integer is defined.
        scaled = tirx.Select(scaled < float32(LARGEST), scaled, float32(LARGEST))
        scaled = tirx.Select(scaled > float32(-LARGEST), scaled, float32(-LARGEST))
        return scaled.astype("int32")


def steps_of(name: str, amax: te.Tensor) -> Steps:
    """Derive steps from the bits of the largest magnitudes, int32 of any shape."""
    smallest = int32(ZERO_BELOW.view("int32"))

    def is_finite(bits: Any) -> Any:
        return bits < int32(_INFINITY_BITS)

    def inverse(*index: Any) -> Any:
        bits = amax(*index)
        quotient = float32(LARGEST) / tirx.reinterpret("float32", bits)
        usable = tirx.all(is_finite(bits), bits >= smallest)
        return tirx.Select(usable, quotient, float32(0))

    def step(*index: Any) -> Any:
        bits = amax(*index)
        quotient = tirx.reinterpret("float32", bits) / float32(LARGEST)
        quotient = tirx.Select(is_finite(bits), quotient, float32(float("nan")))
        return tirx.Select(bits >= smallest, quotient, float32(0))

    return Steps(
        step=te.compute(amax.shape, step, name=f"{name}_step"),
        inverse=te.compute(amax.shape, inverse, name=f"{name}_inverse"),
    )


def contract_reduction(function: tirx.PrimFunc, tensor: str) -> tirx.PrimFunc:
    """Make the reduction ``tensor += a * b`` one fused multiply-add.

    TE's reductions know no fused form, and left to the compiler the pair would be fused on one ISA
    and not on the next.
    """

    def contract(node: tirx.Add) -> Any:
        total, product = node.a, node.b
        is_update = isinstance(total, TensorLoad) and total.source.name == tensor
        if is_update and isinstance(product, tirx.Mul):
            return tirx.op.fma(product.a, product.b, total)
        return node

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.Add, contract)))


def start_reduction(
    function: tirx.PrimFunc,
    tensor: str,
    initial: str,
    place: Callable[[Sequence[Any]], Sequence[Any]],
) -> tirx.PrimFunc:
    """Start the reduction ``tensor`` at the tensor ``initial`` instead of at zero.

    TE's reductions start at a constant. ``initial`` is a parameter or a stage before; ``place``
    says which of its values a value of ``tensor`` starts at.
    """
    known = [*function.params, *function.body.block.alloc_buffers]
    (source,) = (buffer for buffer in known if buffer.name == initial)

    def start(block: SBlock) -> Any:
        if block.name_hint != tensor:
            return block
        zero = block.init
        index = place(list(zero.indices))
        value = tirx.BufferLoad(source, index)
        one = tirx.const(1, "int64")
        region = tirx.BufferRegion(source, [ir.Range.from_min_extent(at, one) for at in index])
        return SBlock(
            block.iter_vars, [*block.reads, region], block.writes, block.name_hint, block.body,
            tirx.BufferStore(zero.buffer, value, zero.indices), block.alloc_buffers,
            block.match_buffers, block.annotations,
        )  # fmt: skip

    return function.with_body(tvm_ffi.structural_map(function.body, (SBlock, start)))


def hide_parameter(function: tirx.PrimFunc, name: str) -> tirx.PrimFunc:
    """Make a result a stage of its own function that no caller sees.

    TE keeps only stages that a result is computed from in TE's own terms.
    """
    (hidden,) = (param for param in function.params if param.name == name)
    params = [param for param in function.params if not param.same_as(hidden)]
    realize, root = function.body, function.body.block
    block = SBlock(
        root.iter_vars, root.reads, root.writes, root.name_hint, root.body, root.init,
        [*root.alloc_buffers, hidden], root.match_buffers, root.annotations,
    )  # fmt: skip
    body = SBlockRealize(realize.iter_values, realize.predicate, block)
    return tirx.PrimFunc(params, body, function.ret_type, function.attrs)
