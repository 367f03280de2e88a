"""The one type of every fast convolution: exact matrices A, B, G, checked when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from ..errors import AlgorithmError

Matrix = tuple[tuple[Fraction, ...], ...]
Rational = int | str | Fraction


@dataclass(frozen=True)
class BilinearAlgorithm:
    """A fast correlation of one axis, ``y = A^T [(G g) * (B^T d)]``, in exact rationals.

    In two dimensions ``Y = A^T [(G g G^T) * (B^T d B)] A``, with one product per tap of n x n.

    Attributes
    ----------
    name : for people, for example "F(4,3)".
    m : outputs of one application.
    r : taps of the kernel.
    a_t : output transform A^T, m x n.
    b_t : input transform B^T, n x t.
    g : weight transform G, n x r.
    points : the interpolation points as text, "inf" the last; empty if there are none.

    Raises
    ------
    AlgorithmError
        If a shape is wrong, or the three matrices do not compute a correlation: the error names
        the output, kernel tap and input whose coefficient is wrong.
    """

    name: str
    m: int
    r: int
    a_t: Matrix
    b_t: Matrix
    g: Matrix
    points: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.m < 1 or self.r < 1:
            raise AlgorithmError(
                f"{self.name}: m is {self.m}, r is {self.r}; both must be positive"
            )
        self._check_shape("A^T", self.a_t, self.m, self.n)
        self._check_shape("B^T", self.b_t, self.n, self.t)
        self._check_shape("G", self.g, self.n, self.r)
        self._check_products()

    @property
    def n(self) -> int:
        """Products of one axis; n * n taps in two dimensions."""
        return len(self.g)

    @property
    def t(self) -> int:
        """Edge of an input tile, m + r - 1."""
        return self.m + self.r - 1

    @property
    def multiplications_per_output(self) -> Fraction:
        """Multiplications per output and input channel, in two dimensions."""
        return Fraction(self.n**2, self.m**2)

    @property
    def saving(self) -> Fraction:
        """How many times fewer multiplications than a direct convolution, in two dimensions."""
        return self.r**2 / self.multiplications_per_output

    def _check_shape(self, what: str, matrix: Matrix, rows: int, columns: int) -> None:
        widths = {len(row) for row in matrix}
        if len(matrix) != rows or widths != {columns}:
            raise AlgorithmError(
                f"{self.name}: {what} has {len(matrix)} rows of {sorted(widths)} entries; "
                f"it must be {rows} x {columns}"
            )

    def _check_products(self) -> None:
        for a in range(self.m):
            for j in range(self.r):
                for i in range(self.t):
                    found = sum(
                        (self.a_t[a][k] * self.g[k][j] * self.b_t[k][i] for k in range(self.n)),
                        Fraction(0),
                    )
                    wanted = int(i == a + j)
                    if found != wanted:
                        raise AlgorithmError(
                            f"{self.name}: not a correlation: output {a} has coefficient {found} "
                            f"for tap {j} of the kernel times input {i}; it must be {wanted}"
                        )


def as_matrix(rows: Sequence[Sequence[Rational]]) -> Matrix:
    """Matrix of exact rationals from nested sequences of int, Fraction, or text such as "2/3"."""
    return tuple(tuple(Fraction(entry) for entry in row) for row in rows)


def rescaled(
    algorithm: BilinearAlgorithm,
    s_a: Sequence[Rational],
    s_b: Sequence[Rational],
    s_g: Sequence[Rational],
) -> BilinearAlgorithm:
    """The same algorithm with A^T S_A, S_B B^T and S_G G for diagonal matrices of n entries each.

    Raises
    ------
    AlgorithmError
        If S_A S_B S_G is not the identity: names the first product for which it is not.
    """
    scales = as_matrix((s_a, s_b, s_g))
    if any(len(scale) != algorithm.n for scale in scales):
        lengths = [len(scale) for scale in scales]
        raise AlgorithmError(
            f"{algorithm.name}: scales have {lengths} entries; give {algorithm.n} each"
        )
    for k, (a, b, g) in enumerate(zip(*scales, strict=True)):
        if a * b * g != 1:
            raise AlgorithmError(
                f"{algorithm.name}: S_A S_B S_G is {a * b * g} for product {k} "
                f"(S_A = {a}, S_B = {b}, S_G = {g}); it must be 1"
            )
    return BilinearAlgorithm(
        name=algorithm.name,
        m=algorithm.m,
        r=algorithm.r,
        a_t=tuple(
            tuple(entry * s for entry, s in zip(row, scales[0], strict=True))
            for row in algorithm.a_t
        ),
        b_t=_scale_rows(scales[1], algorithm.b_t),
        g=_scale_rows(scales[2], algorithm.g),
        points=algorithm.points,
    )


def _scale_rows(scales: Sequence[Fraction], matrix: Matrix) -> Matrix:
    return tuple(
        tuple(scale * entry for entry in row) for scale, row in zip(scales, matrix, strict=True)
    )
