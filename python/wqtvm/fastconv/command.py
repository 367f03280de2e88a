"""The command ``wqtvm points``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ..config import NAMED_POINTS, TILES
from ..errors import ConfigError
from ..options import common

if TYPE_CHECKING:
    from .bilinear import BilinearAlgorithm

CORRELATIONS = (0.0, 0.85, 0.9, 0.95)  # of neighbouring inputs; 0 is white noise

_EXAMPLES = """\b
Examples:
  wqtvm points
  wqtvm points --tile 4 --points 0,1,-1,1/2,-2
  wqtvm points --tile 6 --search --complex i --correlation 0.9
"""


@click.command("points", epilog=_EXAMPLES)
@click.option("--tile", type=click.IntRange(min=1), help="Outputs a tile edge, m of F(m, 3).")
@click.option("--points", help=f"{', '.join(NAMED_POINTS)}, or finite points; needs --tile.")
@click.option("--search", is_flag=True, help="Find the points of least noise gain; needs --tile.")
@click.option(
    "--correlation",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    show_default=True,
    help="With --search: of neighbouring inputs.",
)
@click.option(
    "--complex", "complex_points", multiple=True, metavar="POINT",
    help="With --search: a pair of complex points in every set: i, w or -w; may be repeated.",
)  # fmt: skip
@click.option(
    "--largest-integer",
    type=click.IntRange(min=1),
    default=2**24,
    show_default=True,
    help="With --search: of B^T; 127 for precision full.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common
def points_command(
    tile: int | None,
    points: str | None,
    search: bool,
    correlation: float,
    complex_points: tuple[str, ...],
    largest_integer: int,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Compare fast convolutions of 3x3 kernels: multiplications, and noise gains in dB.

    The noise gain says how much louder int8 rounding noise is than in a direct convolution with a
    step for each tap: for white inputs, and for those whose neighbours correlate, as features of
    trained networks do.
    """
    if tile is None and (search or points is not None):
        raise ConfigError("tile is not given; --points and --search need --tile")
    if search and points is not None:
        raise ConfigError("give either --points or --search")
    from .. import console
    from . import search_points, winograd

    if tile is not None and search:
        with console.Steps(quiet or as_json) as steps:
            found = search_points(
                tile, correlation=correlation, complex_points=complex_points,
                largest_integer=largest_integer,
                progress=lambda done, total: steps("search", done, total),
            )  # fmt: skip
        algorithms = [winograd(tile, candidate.points) for candidate in found]
    elif tile is not None and points is not None:
        named = points in NAMED_POINTS
        given = points if named else tuple(point.strip() for point in points.split(","))
        algorithms = [winograd(tile, given)]
    else:
        algorithms = [a for a in _known() if tile in (None, a.m)]
    rows = [_row(algorithm) for algorithm in algorithms]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    gains = [f"{'white' if rho == 0 else f'rho {rho:g}'}, dB>" for rho in CORRELATIONS]
    shown = console.table("algorithm", "points", "saving>", "largest integer>", *gains)
    for algorithm, row in zip(algorithms, rows, strict=True):
        shown.add_row(
            algorithm.name, " ".join(algorithm.points), f"{float(algorithm.saving):.2f}",
            str(row["largest_integer"]), *(f"{gain:.2f}" for _, gain in _gains(algorithm)),
        )  # fmt: skip
    console.console().print(shown)


def _known() -> Iterator[BilinearAlgorithm]:
    """All algorithms that have a name, each once."""
    from . import NAMED_POINTS, SFC_TILES, sfc, winograd

    seen = []
    for tile in TILES:
        for name, tiles in NAMED_POINTS.items():
            if tile in tiles and set(tiles[tile]) not in seen:
                seen.append(set(tiles[tile]))
                yield winograd(tile, name)
    yield from map(sfc, SFC_TILES)


def _row(algorithm: BilinearAlgorithm) -> dict[str, object]:
    from . import integer_matrix

    return {
        "algorithm": algorithm.name,
        "points": algorithm.points,
        "products": algorithm.n,
        "saving": float(algorithm.saving),
        "largest_integer": integer_matrix(algorithm.b_t).largest,
        "noise_gain_db": {f"{rho:g}": gain for rho, gain in _gains(algorithm)},
    }


def _gains(algorithm: BilinearAlgorithm) -> Iterator[tuple[float, float]]:
    from . import noise_gain_db

    for rho in CORRELATIONS:
        yield rho, noise_gain_db(algorithm, rho)
