"""Make one operator of softmax(scale Q K^T) V, so that scores are never stored.

As three operators it writes and reads the scores of all queries and keys, which of a few thousand
are hundreds of megabytes. Scale factors may be on either side of the first product. Permutations
that brought heads to the front, where a projection has them behind, become the operator's own way
of reading and writing. With a mask, where scores have another use, or are few, operators stay.

Ordering: after `channels_last`, which leaves permutations where they are needed; before
LegalizeOps. The operator takes no followers in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import ir, relax, transform
from tvm.relax.expr_functor import PyExprMutator, mutator

from ..frontend.names import bindings, operator_name
from ..topi.attention import AXES, AttentionWorkload, attention
from .constants import array_of, is_scalar, is_tensor_constant, shape_of
from .sink_permutes import permuted_axes, sink_permutes
from .uses import count_uses

# Fewer scores stay in a core's caches as they are.
_LEAST_SCORES = 1 << 14
_LEAST_QUERIES = 8
_OPAQUE = 8  # kOpaque: nothing is fused with it


def fuse_attention(module: ir.IRModule, precision: str) -> ir.IRModule:
    """Return the module with the attention of ``@main`` as operators of a precision of products."""
    main = module["main"]
    found = _Finder(main).found()
    if not found:
        return module
    rewriting = _Fuse(module, found, precision)
    fused = rewriting.visit_expr(main)
    rewriting.builder_.update_func(module.get_global_var("main"), fused)
    # Where the result had channels before queries, its permutation may cancel what comes behind.
    passes = [sink_permutes, relax.transform.DeadCodeElimination()]
    result: ir.IRModule = transform.Sequential(passes)(rewriting.builder_.get())
    return result


@dataclass(frozen=True)
class _Operand:
    """Queries, keys or values.

    Attributes
    ----------
    base : with the channels last.
    order : of its other axes, see AttentionWorkload; without heads there are as many as images.
    """

    base: relax.Expr
    order: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Images, heads, length, channels."""
        *extents, channels = shape_of(self.base)
        by_axis = {"h": 1, **dict(zip(self.order, extents, strict=True))}
        return (*(by_axis[axis] for axis in AXES), channels)

    @property
    def full_order(self) -> str:
        """The order with heads."""
        return self.order if "h" in self.order else self.order.replace("z", "zh")


@dataclass(frozen=True)
class _Found:
    """An attention.

    Attributes
    ----------
    is_transposed : whether the result has channels before queries.
    order : of the result.
    """

    queries: _Operand
    keys: _Operand
    values: _Operand
    scale: float
    is_transposed: bool = False
    order: str = AXES


class _Finder:
    def __init__(self, main: relax.Function) -> None:
        self.main = main
        self.values = {binding.var: binding.value for binding in bindings(main)}
        self.uses = count_uses(main)

    def found(self) -> dict[relax.Var, _Found]:
        """Attentions by the variable of their result."""
        found: dict[relax.Var, _Found] = {}
        for var, value in self.values.items():
            match = self._attention(value)
            if match is not None:
                found[var] = match
        # Where nothing else wants heads in front, the result has its axes as they are wanted.
        for var, value in self.values.items():
            permutation = _permutation_of(value)
            if permutation is None or self.uses[permutation.source] != 1:
                continue
            match, axes = found.get(permutation.source), permutation.axes
            if match is None or match.is_transposed or axes[-1] != len(AXES):
                continue
            order = "".join(AXES[axis] for axis in axes[:-1])
            found[var] = replace(found.pop(permutation.source), order=order)
        return found

    def _attention(self, value: relax.Expr) -> _Found | None:
        if operator_name(value) != "relax.matmul" or str(value.ty.dtype) != "float32":
            return None
        first, second = value.args
        is_transposed = False
        weights = self._once(first, "relax.nn.softmax")
        values = second
        if weights is None:
            turned_weights, turned_values = (self._turned(each) for each in (second, first))
            if turned_weights is None or turned_values is None or self.uses[second] != 1:
                return None
            weights, is_transposed = self._once(turned_weights, "relax.nn.softmax"), True
            if weights is None:
                return None
            values = turned_values
        rank = len(shape_of(weights))
        if rank not in (3, 4) or int(weights.attrs.axis) % rank != rank - 1:
            return None
        scores, scale = self._unscaled(weights.args[0])
        product = self._once(scores, "relax.matmul")
        if product is None:
            return None
        scaled_queries, by_queries = self._unscaled(product.args[0])
        scaled_keys, by_keys = self._unscaled(product.args[1])
        read_keys = self._keys(scaled_keys)
        if read_keys is None:
            return None
        queries, before_queries = self._unscaled_base(self._operand(scaled_queries))
        keys, before_keys = self._unscaled_base(read_keys)
        scale *= by_queries * by_keys * before_queries * before_keys
        match = _Found(queries, keys, self._operand(values), scale, is_transposed)
        return match if _is_worth_it(match) else None

    def _once(self, var: relax.Expr, operator: str) -> relax.Call | None:
        """The call of this operator that a variable with one use is bound to."""
        value = self.values.get(var)
        is_it = operator_name(value) == operator and self.uses[var] == 1
        return value if is_it and isinstance(value, relax.Call) else None

    def _unscaled(self, var: relax.Expr) -> tuple[relax.Expr, float]:
        """What is multiplied by constants, and their product."""
        factor = 1.0
        while self.uses[var] == 1:
            value = self.values.get(var)
            name = operator_name(value)
            if value is None or name not in ("relax.multiply", "relax.divide"):
                break
            x, constant = value.args
            if name == "relax.multiply" and is_tensor_constant(x):
                x, constant = constant, x
            if not (is_tensor_constant(constant) and is_scalar(constant)):
                break
            number = float(array_of(constant))
            factor = factor * number if name == "relax.multiply" else factor / number
            var = x
        return var, factor

    def _unscaled_base(self, operand: _Operand) -> tuple[_Operand, float]:
        """Of an operand that was multiplied before its axes were permuted."""
        base, factor = self._unscaled(operand.base)
        return replace(operand, base=base), factor

    def _operand(self, var: relax.Expr) -> _Operand:
        """Queries, keys or values of (images, heads, length, channels), or without heads."""
        names = AXES if len(shape_of(var)) > len(AXES) else AXES.replace("h", "")
        permutation = self._permutation(var)
        if permutation is None or permutation.axes[-1] != len(names):
            return _Operand(var, names)
        order = (names[permutation.axes.index(axis)] for axis in range(len(names)))
        return _Operand(permutation.source, "".join(order))

    def _keys(self, var: relax.Expr) -> _Operand | None:
        """Keys, of what has channels before keys."""
        source = self._turned(var)
        if source is not None:
            return self._operand(source)
        permutation = self._permutation(var)
        if permutation is None or permutation.axes[-2] != len(permutation.axes) - 1:
            return None
        *outer, _, keys = permutation.axes
        order = (AXES[[*outer, keys].index(axis)] for axis in range(len(AXES)))
        return _Operand(permutation.source, "".join(order)) if len(outer) == 2 else None

    def _permutation(self, var: relax.Expr) -> _Permutation | None:
        return _permutation_of(self.values.get(var))

    def _turned(self, var: relax.Expr) -> relax.Expr | None:
        """What has its last two axes exchanged, or None."""
        permutation = self._permutation(var)
        if permutation is None:
            return None
        rank = len(permutation.axes)
        turned = (*range(rank - 2), rank - 1, rank - 2)
        return permutation.source if permutation.axes == turned else None


@dataclass(frozen=True)
class _Permutation:
    """Axis i of the result is axis ``axes[i]`` of the source."""

    source: relax.Expr
    axes: tuple[int, ...]


def _permutation_of(value: relax.Expr | None) -> _Permutation | None:
    """The permutation of axes that a value is, or None."""
    if value is None or operator_name(value) != "relax.permute_dims":
        return None
    return _Permutation(value.args[0], permuted_axes(value))


def _is_worth_it(match: _Found) -> bool:
    shapes = [each.shape for each in (match.queries, match.keys, match.values)]
    if any(shape[:2] != shapes[0][:2] for shape in shapes):
        return False
    (batch, heads, queries, _), keys = shapes[0], shapes[1][2]
    return queries >= _LEAST_QUERIES and batch * heads * queries * keys >= _LEAST_SCORES


@mutator
class _Fuse(PyExprMutator):
    def __init__(self, module: ir.IRModule, found: dict[relax.Var, _Found], precision: str) -> None:
        super().__init__(module)
        self.found = found
        self.precision = precision
        self.functions: dict[AttentionWorkload, ir.GlobalVar] = {}

    def visit_var_binding_(self, binding: relax.VarBinding) -> None:
        match = self.found.get(binding.var)
        if match is None:
            super().visit_var_binding_(binding)
            return
        new = relax.VarBinding(binding.var, self._call(match, shape_of(binding.var)))
        super().visit_var_binding_(new)

    def _call(self, match: _Found, shape: Sequence[int]) -> relax.Expr:
        queries, keys, values = match.queries.shape, match.keys.shape, match.values.shape
        work = AttentionWorkload(
            batch=queries[0],
            heads=queries[1],
            queries=queries[2],
            keys=keys[2],
            channels=queries[3],
            value_channels=values[3],
            scale=match.scale,
            precision=self.precision,
            orders=(
                match.queries.full_order, match.keys.full_order, match.values.full_order,
                match.order,
            ),
        )  # fmt: skip
        if work not in self.functions:
            function = attention(work).without_attr("global_symbol")
            name = f"wq_attention_{work.heads}x{work.queries}x{work.keys}x{work.channels}"
            self.functions[work] = self.builder_.add_func(
                function.with_attr("op_pattern", _OPAQUE), name
            )
        given = [
            self._shaped(self.visit_expr(operand.base), work.shape(tensor))
            for operand, tensor in (
                (match.queries, "queries"), (match.keys, "keys"), (match.values, "values")
            )
        ]  # fmt: skip
        result = relax.TensorType(work.shape("output"), "float32")
        call = relax.call_tir(self.functions[work], given, out_ty=result)
        if not match.is_transposed and tuple(shape) == work.shape("output"):
            return call
        output = self.builder_.emit(call)
        if not match.is_transposed:
            return relax.op.reshape(output, list(shape))
        rank = len(shape)
        turned = [*range(rank - 2), rank - 1, rank - 2]
        untransposed = [shape[axis] for axis in turned]
        output = self._shaped(output, untransposed)
        return relax.op.permute_dims(output, turned)

    def _shaped(self, value: relax.Expr, shape: Sequence[int]) -> relax.Expr:
        if tuple(shape_of(value)) == tuple(shape):
            return value
        return self.builder_.emit(relax.op.reshape(value, list(shape)))
