"""Exact maths of fast convolutions: algorithms, points, scales, and transform rows."""

from __future__ import annotations

from .bilinear import BilinearAlgorithm, Matrix, Rational, as_matrix, rescaled
from .families import DIRECT_KERNELS, KERNELS, bilinear_algorithm
from .rows import (
    IntegerMatrix,
    RowMatrix,
    RowOps,
    evaluate_row,
    evaluate_rows,
    integer_matrix,
    unit_matrix,
)
from .scales import (
    CORRELATION,
    SCALE_RULES,
    ScaleSet,
    correlated_scales,
    named_scales,
    noise_gain_db,
    row_norm_scales,
    standard_scales,
)
from .search import PointCandidate, search_points
from .sfc import SFC_TILES, sfc
from .toom_cook import INFINITY, NAMED_POINTS, direct, toom_cook, winograd

__all__ = [
    "CORRELATION",
    "DIRECT_KERNELS",
    "INFINITY",
    "KERNELS",
    "NAMED_POINTS",
    "SCALE_RULES",
    "SFC_TILES",
    "BilinearAlgorithm",
    "IntegerMatrix",
    "Matrix",
    "PointCandidate",
    "Rational",
    "RowMatrix",
    "RowOps",
    "ScaleSet",
    "as_matrix",
    "bilinear_algorithm",
    "correlated_scales",
    "direct",
    "evaluate_row",
    "evaluate_rows",
    "integer_matrix",
    "named_scales",
    "noise_gain_db",
    "rescaled",
    "row_norm_scales",
    "search_points",
    "sfc",
    "standard_scales",
    "toom_cook",
    "unit_matrix",
    "winograd",
]
