"""How a reshape of a permuted tensor looks on the tensor before the permutation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BaseReshape:
    """A reshape of a view as a permutation and a reshape of the view's base.

    Attributes
    ----------
    permutation : permutation of the base's axes, to be applied first.
    base_shape : shape of the permuted base after the reshape.
    order : axis i of the reshaped view is axis order[i] of the reshaped base.
    is_free : whether the permutation is the identity.
    """

    permutation: tuple[int, ...]
    base_shape: tuple[int, ...]
    order: tuple[int, ...]
    is_free: bool


def reshape_view(
    source: Sequence[int], target: Sequence[int], order: Sequence[int]
) -> BaseReshape | None:
    """Rewrite ``reshape(permute(base, order), target)``, where the permuted shape is `source`.

    Axes fall into groups of equal products: (N, C r r, H, W) to (N, C, r, r, H, W) has the groups
    N, C r r, H, W. The base's axes are brought together group by group, the groups in the order
    of their first axes in the base. None if the shapes do not match group by group.

    >>> plan = reshape_view((1, 8, 6, 6), (1, 2, 2, 2, 6, 6), (0, 3, 1, 2))
    >>> plan.base_shape, plan.order, plan.is_free
    ((1, 6, 6, 2, 2, 2), (0, 3, 4, 5, 1, 2), True)
    """
    groups = _axis_groups(source, target)
    if groups is None:
        return None
    groups = sorted(groups, key=lambda group: order[group[0][0]])
    permutation = tuple(order[axis] for axes, _ in groups for axis in axes)
    base_shape = tuple(target[axis] for _, axes in groups for axis in axes)
    position = {axis: i for i, axis in enumerate(axis for _, axes in groups for axis in axes)}
    return BaseReshape(
        permutation=permutation,
        base_shape=base_shape,
        order=tuple(position[axis] for axis in range(len(target))),
        is_free=permutation == tuple(range(len(order))),
    )


def _axis_groups(
    source: Sequence[int], target: Sequence[int]
) -> list[tuple[list[int], list[int]]] | None:
    """Split the axes of both shapes into the smallest consecutive groups of equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        axes, new_axes = [i], [j]
        product, new_product = source[i], target[j]
        i, j = i + 1, j + 1
        while product != new_product:
            if product < new_product:
                if i == len(source):
                    return None
                axes.append(i)
                product *= source[i]
                i += 1
            else:
                if j == len(target):
                    return None
                new_axes.append(j)
                new_product *= target[j]
                j += 1
        groups.append((axes, new_axes))
    ones_are_left = all(size == 1 for size in (*source[i:], *target[j:]))
    if not groups or not ones_are_left:
        return None
    groups[-1][0].extend(range(i, len(source)))
    groups[-1][1].extend(range(j, len(target)))
    return groups
