"""The numpy reference: against a plain reading of its definition, tile by tile, and as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from wqtvm.errors import InputMismatchError
from wqtvm.fastconv import correlated_scales, direct, row_norm_scales, standard_scales, winograd
from wqtvm.quantization import (
    DirectStages,
    FullStages,
    HadamardStages,
    Scheme,
    convolution_reference,
    direct_reference,
    full_reference,
    hadamard_reference,
    quantize_weights,
    sqnr_db,
)
from wqtvm.quantization.reference import assemble_tiles, extract_tiles
from wqtvm.quantization.scheme import STEPS, WEIGHT_STEPS

Rounding = Callable[[Fraction], np.float32]
F32 = np.float32

# Of the rows, and of the columns.
ALGORITHMS = {
    "F(1,3)": (direct(), direct()),
    "F(2,3)": (winograd(2), winograd(2)),
    "F(3,3)": (winograd(3), winograd(3)),
    "F(4,3) lavin": (winograd(4, "lavin"), winograd(4, "lavin")),
    "F(4,3)": (winograd(4), winograd(4)),
    "F(5,3)": (winograd(5), winograd(5)),
    "F(6,3)": (winograd(6), winograd(6)),
    "F(4x2,3)": (winograd(4), winograd(2)),
    "F(3x6,3)": (winograd(3), winograd(6)),
    "F(1,5)": (direct(5), direct(5)),
    "F(2,5)": (winograd(2, r=5), winograd(2, r=5)),
    "F(4,5)": (winograd(4, r=5), winograd(4, r=5)),
    "F(2x3,5)": (winograd(2, r=5), winograd(3, r=5)),
}


def image(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weight(outputs: int, channels: int, taps: int = 3) -> np.ndarray:
    return image((outputs, channels, taps, taps), seed=1)


def make(name: str, precision: str, group_size: int = 32, steps: str = "channel") -> Scheme:
    rows, columns = ALGORITHMS[name]
    return Scheme(
        rows, correlated_scales(rows), precision, group_size, steps, "tap",
        columns, correlated_scales(columns),
    )  # fmt: skip


class Plain:
    """The definition with loops over numbers: what one reads in the text, nothing vectorised."""

    def __init__(self, scheme: Scheme, round_to_float32: Rounding) -> None:
        self.scheme = scheme
        self.round = round_to_float32

    def fma(self, a: np.float32, b: np.float32, c: np.float32) -> np.float32:
        return self.round(Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)))

    def row(self, coefficients: list[float], values: list[np.float32]) -> np.float32:
        """Halves of even and odd index; unit terms, then fma; signs taken out."""
        parts: list[tuple[int, list[tuple[np.float32, np.float32]]]] = []
        for parity in (0, 1):
            indices = [i for i in range(parity, len(values), 2) if coefficients[i] != 0]
            indices = [i for i in indices if abs(coefficients[i]) == 1] + [
                i for i in indices if abs(coefficients[i]) != 1
            ]
            if indices:
                sign = 1 if coefficients[indices[0]] > 0 else -1
                terms = [(F32(sign * coefficients[i]), values[i]) for i in indices]
                parts.append((sign, terms))
        for last in (1, 0):
            if len(parts) < 2:
                break
            (sign, terms), (other_sign, other) = parts[last], parts[1 - last]
            c = terms[0][0]
            if c != 1 and (len(terms) == 1 or other_sign > 0):
                rest = self.half([(F32(float(each) / float(c)), x) for each, x in terms])
                return self.fma(F32(sign) * c, rest, F32(other_sign) * self.half(other))
        first, *rest = [F32(sign) * self.half(terms) for sign, terms in parts]
        return first + rest[0] if rest else first

    def half(self, terms: list[tuple[np.float32, np.float32]]) -> np.float32:
        (c, x), *rest = terms
        total = c * x
        for c, x in rest:
            total = total + c * x if abs(c) == 1 else self.fma(c, x, total)
        return total

    def step(self, values: list[np.float32]) -> tuple[np.float32, np.float32]:
        largest = max(abs(value) for value in values)
        if largest < 2.0**-119:
            return F32(0), F32(0)
        return F32(127) / largest, largest / F32(127)

    def q(self, value: np.float32, inverse: np.float32) -> int:
        return max(-127, min(127, round(float(value * inverse))))

    def groups(self, channels: int, alone: bool = False) -> list[range]:
        size = 1 if alone else self.scheme.channels_per_group(channels)
        return [range(c, min(c + size, channels)) for c in range(0, channels, size)]

    def products(self, v: np.ndarray, v_step: np.ndarray, weights: object) -> np.ndarray:
        rows, columns, channels = v.shape
        outputs = weights.u.shape[2]
        m = np.zeros((rows, columns, outputs), np.float32)
        for e in range(rows):
            for tap in range(columns):
                for k in range(outputs):
                    total = F32(0)
                    for g, group in enumerate(self.groups(channels)):
                        acc = sum(
                            int(v[e, tap, c]) * int(weights.u[e, tap, k, g, c - group.start])
                            for c in group
                        )
                        step = v_step[e, tap, g] * weights.step[e, tap, k, g]
                        total = self.fma(F32(acc), step, total)
                    m[e, tap, k] = total
        return m

    def quantize_by(
        self, values: np.ndarray, shared: str, alone: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """values (row, column, channel); a step per "taps", "rows", "columns" or "tile"."""
        rows, columns, channels = values.shape
        groups = self.groups(channels, alone)
        q = np.zeros(values.shape, int)
        step = np.zeros((rows, columns, len(groups)), np.float32)
        for r in range(rows):
            for c in range(columns):
                for g, group in enumerate(groups):
                    others = {
                        "taps": [(r, c)],
                        "rows": [(r, other) for other in range(columns)],
                        "columns": [(other, c) for other in range(rows)],
                        "tile": [(i, j) for i in range(rows) for j in range(columns)],
                    }[shared]
                    members = [values[i, j, s] for i, j in others for s in group]
                    inverse, step[r, c, g] = self.step(members)
                    for s in group:
                        q[r, c, s] = self.q(values[r, c, s], inverse)
        return q, step

    def rescaled(self, sums: np.ndarray, step: np.ndarray) -> np.ndarray:
        """Integers (row, column, channel) as float32 times the float32 step of their group."""
        out = np.zeros(sums.shape, np.float32)
        alone = self.scheme.steps == "channel"
        for g, group in enumerate(self.groups(sums.shape[-1], alone)):
            for s in group:
                out[..., s] = sums[..., s].astype(np.float32) * step[..., g]
        return out

    def hadamard(self, d: np.ndarray, weights: object) -> dict[str, np.ndarray]:
        axes = (self.scheme.row_axis, self.scheme.column_axis)
        rows, columns = ([list(map(float, row)) for row in a.input_matrix.rows] for a in axes)
        a_rows, a_columns = (axis.output_matrix.tolist() for axis in axes)
        b_d = self.columns(rows, d)
        b_d_b = self.columns(columns, b_d.swapaxes(0, 1)).swapaxes(0, 1)
        v, v_step = self.quantize_by(b_d_b, "taps")
        m = self.products(v, v_step, weights)
        a_m = self.columns(a_rows, m)
        y = self.columns(a_columns, a_m.swapaxes(0, 1)).swapaxes(0, 1)
        return {
            "b_d": b_d, "b_d_b": b_d_b, "v": v, "v_step": v_step, "m": m, "a_m": a_m, "y": y,
        }  # fmt: skip

    def columns(self, matrix: list[list[float]], values: np.ndarray) -> np.ndarray:
        out = np.zeros((len(matrix), *values.shape[1:]), np.float32)
        for index in np.ndindex(values.shape[1:]):
            rows = [list(row) for row in matrix]
            inputs = [values[(i, *index)] for i in range(len(rows[0]))]
            i = 0
            while i + 1 < len(inputs):  # columns that differ in signs: their sum and difference
                pairs = [(row[i], row[i + 1]) for row in rows]
                kinds = {a == b for a, b in pairs if a}
                if all(abs(a) == abs(b) for a, b in pairs) and len(kinds) == 2:
                    inputs[i : i + 2] = inputs[i] + inputs[i + 1], inputs[i] - inputs[i + 1]
                    for row, (a, b) in zip(rows, pairs, strict=True):
                        row[i : i + 2] = (a, 0.0) if a == b else (0.0, a)
                    i += 1
                i += 1
            for r, row in enumerate(rows):
                out[(r, *index)] = self.row(row, inputs)
        return out

    def full(self, d: np.ndarray, weights: object) -> dict[str, np.ndarray]:
        scheme = self.scheme
        tile, alone = scheme.steps == "tile", scheme.steps == "channel"
        axes = (scheme.row_axis, scheme.column_axis)
        rows, columns = (np.array(axis.input_matrix.rows) for axis in axes)
        rb, cb = (axis.input_row_scale.astype(np.float32) for axis in axes)
        (a_rows, row_step), (a_columns, column_step) = (axis.output_integers for axis in axes)
        a_rows, a_columns = a_rows.astype(int), a_columns.astype(int)
        d_q, d_step = self.quantize_by(d, "tile" if tile else "columns", alone)
        sums = np.einsum("ei,ijc->ejc", rows, d_q)
        step = np.array([d_step[0] * scale for scale in rb])
        b_d_q, b_d_step = self.quantize_by(
            self.rescaled(sums, step), "tile" if tile else "rows", alone
        )
        sums = np.einsum("vj,ejc->evc", columns, b_d_q)
        step = np.array([[row[0] * scale for scale in cb] for row in b_d_step])
        v, v_step = self.quantize_by(self.rescaled(sums, step), "taps")
        m = self.products(v, v_step, weights)
        m_q, m_step = self.quantize_by(m, "tile" if tile else "columns", alone)
        sums = np.einsum("ae,evk->avk", a_rows, m_q)
        step = np.array([m_step[0] * row_step for _ in a_rows])
        a_m_q, a_m_step = self.quantize_by(
            self.rescaled(sums, step), "tile" if tile else "rows", alone
        )
        sums = np.einsum("bv,avk->abk", a_columns, a_m_q)
        step = np.array([[row[0] * column_step for _ in a_columns] for row in a_m_step])
        return {
            "d_q": d_q, "d_step": d_step[0], "b_d_q": b_d_q, "b_d_step": b_d_step[:, 0],
            "v": v, "v_step": v_step, "m": m, "m_q": m_q, "m_step": m_step[0],
            "a_m_q": a_m_q, "a_m_step": a_m_step[:, 0], "y": self.rescaled(sums, step),
        }  # fmt: skip


@pytest.mark.parametrize("name", ["F(2,3)", "F(4,3) lavin", "F(4,3)", "F(4x2,3)", "F(2x3,5)"])
@pytest.mark.parametrize(
    ("precision", "steps"), [("hadamard", "axis"), *(("full", steps) for steps in STEPS)]
)
def test_stages_of_a_tile_are_the_definition_to_the_bit(
    round_to_float32: Rounding, name: str, precision: str, steps: str
) -> None:
    scheme = make(name, precision, group_size=4, steps=steps)
    channels = 6  # groups of 4 and of 2
    weights = quantize_weights(weight(5, channels, scheme.kernel), scheme)
    x = image((1, *scheme.input_tile, channels))
    stages = convolution_reference(x, weights, scheme, padding=0)
    plain = Plain(scheme, round_to_float32)
    expected = (plain.hadamard if precision == "hadamard" else plain.full)(stages.d[0], weights)
    for field, values in expected.items():
        found = getattr(stages, field)[0]
        if field in ("v", "d_q", "b_d_q"):
            found = found.reshape(*found.shape[:-2], -1)[..., :channels]
        elif field.endswith("_step") and field != "v_step":
            # (.., g, s): steps of channels, padding dropped, or of groups.
            found = found.reshape(*found.shape[:-2], -1)[..., : values.shape[-1]]
        # A step of the whole tile has length 1 along the axis on which the plain one repeats it.
        np.testing.assert_array_equal(np.broadcast_to(found, values.shape), values, field)


@pytest.mark.parametrize("weight_steps", WEIGHT_STEPS)
def test_the_direct_convolution_is_the_definition_to_the_bit(
    round_to_float32: Rounding, weight_steps: str
) -> None:
    scheme = replace(make("F(1,3)", "hadamard", group_size=4), weight_steps=weight_steps)
    channels, stride = 6, 2  # groups of 4 and of 2
    weights = quantize_weights(weight(5, channels), scheme)
    x = image((1, 5, 6, channels))
    stages = direct_reference(x, weights, scheme, 1, keep_accumulators=True, stride=stride)
    plain = Plain(scheme, round_to_float32)
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    v, v_step = plain.quantize_by(padded, "taps")
    np.testing.assert_array_equal(stages.v.reshape(1, *padded.shape[:2], -1)[0, ..., :channels], v)
    np.testing.assert_array_equal(stages.v_step[0], v_step)
    assert stages.acc is not None
    for row, column, k in np.ndindex(stages.output.shape[1:]):
        total = F32(0)
        for g, group in enumerate(plain.groups(channels)):
            of_group = F32(0)
            for e, c in np.ndindex(3, 3):
                y, x_ = row * stride + e, column * stride + c
                acc = sum(int(v[y, x_, s]) * int(weights.u[e, c, k, g, s % 4]) for s in group)
                assert stages.acc[e, c, 0, row, column, k, g] == acc
                step = v_step[y, x_, g]
                if weight_steps == "tap":
                    step = step * weights.step[e, c, k, g]
                of_group = plain.fma(F32(acc), step, of_group)
            if weight_steps == "tap":
                total = total + of_group
            else:
                total = plain.fma(of_group, weights.step[0, 0, k, g], total)
        assert stages.output[0, row, column, k] == total


# Channels that no group divides, sizes that no tile divides, several images, both paddings.
SHAPES = [
    ((1, 7, 9, 1), 1, 1),
    ((3, 11, 6, 3), 17, 0),
    ((1, 5, 13, 17), 33, 1),
    ((3, 9, 4, 33), 3, 1),
    ((1, 10, 15, 100), 33, 0),
]


@pytest.mark.parametrize(("shape", "outputs", "padding"), SHAPES)
@pytest.mark.parametrize("precision", ["hadamard", "full"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_odd_shapes(
    convolution: Callable[..., np.ndarray],
    name: str,
    precision: str,
    shape: tuple[int, ...],
    outputs: int,
    padding: int,
) -> None:
    scheme = make(name, precision)
    x, w = image(shape), weight(outputs, shape[3], scheme.kernel)
    if scheme.kernel == 5:
        padding *= 2
        x = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # room for five taps without padding
    stages = convolution_reference(x, quantize_weights(w, scheme), scheme, padding)
    expected = convolution(x, w, padding)
    assert stages.output.shape == expected.shape
    assert stages.output.dtype == np.float32
    # F(6,3) in full is the worst at 12 dB; a misplaced tile or channel gives 0 dB or less.
    assert sqnr_db(expected, stages.output) > 9


@pytest.mark.parametrize("group_size", [4, 32, 64, 0])
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_group_sizes(
    convolution: Callable[..., np.ndarray], precision: str, group_size: int
) -> None:
    scheme = make("F(2,3)", precision, group_size)
    x, w = image((1, 8, 8, 100)), weight(10, 100)
    stages = convolution_reference(x, quantize_weights(w, scheme), scheme, padding=1)
    assert stages.v.shape[3:] == {4: (25, 4), 32: (4, 32), 64: (2, 64), 0: (1, 128)}[group_size]
    assert sqnr_db(convolution(x, w, 1), stages.output) > 30


def test_shapes_of_steps() -> None:
    x = image((2, 8, 12, 40))
    channel, axis, tile = (make("F(4,3)", "full", steps=steps) for steps in STEPS)
    weights = quantize_weights(weight(70, 40), axis)
    by_channel, by_axis, by_tile = (
        full_reference(x, weights, scheme, padding=1) for scheme in (channel, axis, tile)
    )
    # 12 tiles, 2 groups of input channels, 3 of output channels.
    assert by_channel.d_step.shape == by_channel.b_d_step.shape == (12, 6, 2, 32)
    assert by_axis.d_step.shape == by_axis.b_d_step.shape == (12, 6, 2, 1)
    assert by_tile.d_step.shape == by_tile.b_d_step.shape == (12, 1, 2, 1)
    assert by_channel.m_step.shape == (12, 6, 3, 32)
    assert by_channel.a_m_step.shape == (12, 4, 3, 32)
    assert by_axis.v_step.shape == by_tile.v_step.shape == (12, 6, 6, 2)
    assert (by_axis.m_step.shape, by_tile.m_step.shape) == ((12, 6, 3, 1), (12, 1, 3, 1))
    assert (by_axis.a_m_step.shape, by_tile.a_m_step.shape) == ((12, 4, 3, 1), (12, 1, 3, 1))
    assert by_axis.m_q.shape == (12, 6, 6, 70)
    assert by_axis.a_m_q.shape == (12, 4, 6, 70)


def test_accumulators_are_kept_on_request() -> None:
    # A group of 1100 channels: its sums need more than the 24 bits of a float32.
    for channels, group_size in ((70, 32), (1100, 0)):
        scheme = make("F(2,3)", "hadamard", group_size)
        weights = quantize_weights(weight(3, channels), scheme)
        x = image((1, 4, 4, channels))
        stages = hadamard_reference(x, weights, scheme, padding=0, keep_accumulators=True)
        exact = np.einsum("pevgs,evkgs->pevkg", stages.v.astype(int), weights.u.astype(int))
        assert stages.acc is not None
        assert stages.acc.dtype == np.int32
        np.testing.assert_array_equal(stages.acc, exact)
        assert hadamard_reference(x, weights, scheme, padding=0).acc is None


def test_sums_beyond_24_bits_are_exact() -> None:
    scheme = make("F(1,3)", "hadamard", group_size=0)
    x = np.ones((1, 3, 3, 1100), np.float32)
    weights = quantize_weights(np.ones((1, 1100, 3, 3), np.float32), scheme)
    stages = hadamard_reference(x, weights, scheme, padding=0, keep_accumulators=True)
    assert stages.acc is not None
    assert np.all(stages.acc == 1100 * 127 * 127)


def test_scales_do_not_matter_in_precision_hadamard() -> None:
    algorithm = winograd(4)
    outputs = []
    for rule in (standard_scales, row_norm_scales, correlated_scales):
        scheme = Scheme(algorithm, rule(algorithm), "hadamard")
        weights = quantize_weights(weight(8, 8), scheme)
        outputs.append(hadamard_reference(image((1, 8, 8, 8)), weights, scheme, 1).output)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_the_mean_of_an_image_does_not_leak() -> None:
    # The rows of Lavin's points, but that of the point 1, annihilate constants: exactly.
    scheme = make("F(4,3) lavin", "full")
    x = np.full((1, 10, 10, 4), 0.7, np.float32)  # 2 x 2 tiles, none of them over the edge
    stages = full_reference(x, quantize_weights(weight(4, 4), scheme), scheme, padding=0)
    others = [tap for tap in range(6) if tap != 1]
    assert stages.b_d_q[:, 1].any()
    assert not stages.b_d_q[:, others].any()
    assert not stages.v[:, :, others].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["hadamard", "full"])
def test_what_is_not_finite_stays_in_the_tiles_that_see_it(precision: str, bad: float) -> None:
    scheme = make("F(4,3)", precision)
    weights = quantize_weights(weight(6, 40), scheme)
    clean = image((2, 16, 16, 40))
    broken = clean.copy()
    broken[1, 6, 9, 35] = bad
    before, after = (convolution_reference(x, weights, scheme, padding=1) for x in (clean, broken))
    sees = ~np.isfinite(after.d).all(axis=(1, 2, 3))
    assert 0 < sees.sum() < len(sees)
    np.testing.assert_array_equal(after.y[~sees], before.y[~sees])
    # Channel 35 is of group 1: the steps of group 0 are as before.
    np.testing.assert_array_equal(after.v_step[..., 0], before.v_step[..., 0])
    assert np.isnan(after.v_step[sees][..., 1]).any(axis=(1, 2)).all()
    # All outputs whose window holds the pixel are NaN, in all output channels.
    assert np.isnan(after.output[1, 5:8, 8:11]).all()
    assert np.isfinite(after.output[0]).all()
    assert not np.isinf(after.output).any()
    if precision == "full":
        assert np.isnan(after.y[sees]).all()


def test_zeros_give_zeros() -> None:
    for precision in ("hadamard", "full"):
        scheme = make("F(4,3)", precision)
        weights = quantize_weights(weight(3, 3), scheme)
        stages = convolution_reference(np.zeros((1, 6, 6, 3), np.float32), weights, scheme, 1)
        assert not stages.output.any()


def test_tiles_in_and_out() -> None:
    scheme = make("F(2,3)", "hadamard")
    weights = quantize_weights(weight(2, 2), scheme)
    x = image((2, 5, 4, 2))
    tiles = extract_tiles(x, weights, scheme, padding=1)
    assert tiles.shape == (2 * 3 * 2, 4, 4, 2)
    tile = 1 * 6 + 2 * 2 + 1  # image 1, tile row 2, tile column 1
    padded = np.pad(x, ((0, 0), (1, 4), (1, 4), (0, 0)))
    np.testing.assert_array_equal(tiles[tile], padded[1, 4:8, 2:6])
    y = np.ascontiguousarray(tiles[:, 1:3, 1:3])  # the tiles' middles make up the image
    np.testing.assert_array_equal(assemble_tiles(y, x.shape, scheme, padding=1), x)


def test_precision_chooses_the_stages() -> None:
    for name, precision, stages in (
        ("F(2,3)", "hadamard", HadamardStages),
        ("F(2,3)", "full", FullStages),
        ("F(1,3)", "hadamard", DirectStages),
        ("F(1,3)", "full", FullStages),
    ):
        scheme = make(name, precision)
        weights = quantize_weights(weight(2, 2), scheme)
        assert isinstance(convolution_reference(image((1, 4, 4, 2)), weights, scheme, 0), stages)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (image((1, 4, 4, 3)), r"float32 of shape \(1, 4, 4, 3\); give .* columns, 2\)"),
        (image((4, 4, 2)), r"float32 of shape \(4, 4, 2\)"),
        (image((1, 4, 4, 2)).astype(np.float64), "input is float64"),
        (image((1, 2, 4, 2)), "edge of 2 pixels with padding 0 has no output for 3 taps"),
    ],
)
def test_wrong_inputs_are_refused(x: np.ndarray, message: str) -> None:
    scheme = make("F(2,3)", "hadamard")
    with pytest.raises(InputMismatchError, match=message):
        convolution_reference(x, quantize_weights(weight(2, 2), scheme), scheme, padding=0)
