"""A reshape of a permuted array, done on the array before the permutation."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wqtvm.transform.axis_groups import reshape_view

NCHW_OF_NHWC = (0, 3, 1, 2)


def test_splitting_channels_is_free():
    plan = reshape_view((1, 8, 5, 7), (1, 2, 2, 2, 5, 7), NCHW_OF_NHWC)
    assert (plan.base_shape, plan.order, plan.is_free) == (
        (1, 5, 7, 2, 2, 2),
        (0, 3, 4, 5, 1, 2),
        True,
    )


def test_tokens_of_an_image_are_free():
    plan = reshape_view((2, 8, 5, 7), (2, 8, 35), NCHW_OF_NHWC)
    assert (plan.base_shape, plan.order, plan.is_free) == ((2, 35, 8), (0, 2, 1), True)


def test_last_step_of_a_pixel_shuffle_ends_in_nhwc():
    # (N, C, H, r, W, r) as a view of (N, H, W, C, r, r).
    plan = reshape_view((1, 3, 5, 2, 7, 2), (1, 3, 10, 14), (0, 3, 1, 4, 2, 5))
    assert (plan.base_shape, plan.order, plan.is_free) == ((1, 10, 14, 3), NCHW_OF_NHWC, False)


def test_regrouping_across_all_axes_has_no_base_form_but_one_group():
    plan = reshape_view((2, 3, 5), (5, 3, 2), (0, 2, 1))
    assert not plan.is_free


def test_different_sizes():
    assert reshape_view((2, 3), (4, 2), (1, 0)) is None
    assert reshape_view((2, 3), (2,), (1, 0)) is None
    assert reshape_view((), (1,), ()) is None


@st.composite
def reshapes(draw):
    """Source and target shape of equal size, with an order of the source's axes."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=6))

    def joined() -> tuple[int, ...]:
        cuts = draw(st.sets(st.integers(1, len(factors))))
        edges = sorted({0, len(factors)} | cuts)
        return tuple(math.prod(factors[a:b]) for a, b in pairwise(edges))

    source, target = joined(), joined()
    return source, target, tuple(draw(st.permutations(range(len(source)))))


@given(reshapes())
def test_same_as_numpy(reshape):
    source, target, order = reshape
    base_shape = [source[order.index(axis)] for axis in range(len(source))]
    base = np.arange(math.prod(source)).reshape(base_shape)
    plan = reshape_view(source, target, order)
    actual = base.transpose(plan.permutation).reshape(plan.base_shape).transpose(plan.order)
    np.testing.assert_array_equal(actual, base.transpose(order).reshape(target))
