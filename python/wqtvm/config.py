"""What the user chooses: one frozen configuration for the whole network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .errors import ConfigError
from .fastconv import SFC_TILES

Precision = Literal["full", "hadamard", "bfloat16"]
Steps = Literal["channel", "axis", "tile"]
WeightSteps = Literal["tap", "filter"]
ActivationSteps = Literal["pixel", "image"]
Minimize = Literal["time", "multiplications"]
Others = Literal["float", "direct"]
Images = Literal["float32", "float16", "bfloat16"]
Attention = Literal["float32", "bfloat16"]

ALGORITHMS = ("auto", "winograd", "sfc", "direct", "float")
TILES = (2, 3, 4, 5, 6)
DEFAULT_TILES = {3: 4, 5: 2}  # by the taps of a kernel's edge
PRECISIONS = ("full", "hadamard", "bfloat16")
LEARNED = "learned"  # the scales that come with wqtvm
SCALES = ("standard", "row-norm", "correlated", LEARNED)
SCALES_SUFFIX = ".safetensors"  # of a file of scales, whose path is as good as a name
STEPS = ("channel", "axis", "tile")
WEIGHT_STEPS = ("tap", "filter")
ACTIVATION_STEPS = ("pixel", "image")
MINIMIZE = ("time", "multiplications")
OTHERS = ("float", "direct")
IMAGES = ("float32", "float16", "bfloat16")
ATTENTION = ("float32", "bfloat16")
NAMED_POINTS = ("best", "lavin", "complex")
# A group's products are summed in int32, where 2**16 of them fit whatever their signs.
LARGEST_GROUP = 2**12


@dataclass(frozen=True)
class WinogradConfig:
    """How eligible convolutions are computed.

    Attributes
    ----------
    algorithm : "winograd", "sfc" (symbolic Fourier), "direct" (int8 without a transform), "float",
        or "auto": for each layer what is predicted to take the least time on the target, such that
        the network keeps the accuracy budget, which is measured.
    tile : outputs a tile edge, m of F(m, 3) and F(m, 5), or with "winograd" its rows and columns
        where they differ, such as (4, 2); for "sfc" 4 or 6; of no use in "auto". If None, 4 for
        kernels of 3x3 and 2 for 5x5, both of which take 36 products a tile and lose about as much.
    points : "best", "lavin", "complex" (of F(m, 3) from m = 3: a product more each axis, far less
        noise; in F(5,3) and F(6,3) for "hadamard" only), or the finite interpolation points as
        fractions and "i", for +-i ("0", "2/3", ...), for square tiles; of use in "winograd" and
        "auto" only.
    precision : "hadamard" (the product alone in int8), "full" (every stage in int8), or, with
        algorithm "direct" and AMX or AVX-512 BF16, "bfloat16" (the operands rounded to 8 bits of
        mantissa, summed in float32). In "auto" "full" offers "hadamard", too, and targets that have
        bfloat16 offer that in any case.
    group_size : channels that share a quantization step; 0 means all of a layer.
    scales : "standard", "row-norm", "correlated", "learned" (those that come with wqtvm), or
        the path of a file that ``wqtvm learn-scales`` wrote; of use in ``full`` only.
    steps : what shares a step in ``full``: a "channel"'s values of a row or a column of the tile,
        that "axis" of a group of channels, or the whole "tile" of a group, as in the paper.
    weight_steps : "tap" (a step for each tap of a filter and group) or "filter" (one for all of its
        taps, as int8 libraries do for direct convolutions).
    activation_steps : what shares a step of the activations of direct convolutions: a "pixel"'s
        channels of a group, or an "image" with all its channels, between its least and its largest
        value, as int8 libraries do, but found as the network runs. That is the fastest, the more
        so with AMX, and loses a few dB; group_size and weight_steps are then of no use in direct.
    others : "float" or "direct", what "winograd" and "sfc" make of eligible convolutions that they
        are not for: strided ones, and kernels for which they have no tiles, such as 1x1; of no use
        with other algorithms, which are for all of them.
    images : what is stored between layers: "float32", or in half the bytes "float16" (75 dB, and
        infinite beyond 65504) or "bfloat16" (57 dB, with float32's range), for CPUs. Computed is in
        float32 all the same; what the network takes and gives keeps its dtype. "auto" does not
        count the rounding in its budget.
    attention : the precision of the products of attention, "float32" or "bfloat16" (47 to 50 dB,
        two to four times as fast), for CPUs with AMX. "auto" does not count that in its budget.
    calibrate : whether input channels are balanced against weights, where that is free, and output
        channels rid of their errors' means, by what layers do on the inputs given or, without data,
        on made-up pictures, if the network gives such back; the float network is built and run for
        it. If None, with "auto" only, which runs it anyway, and where inputs are known.
    min_sqnr_db : in "auto", the least SQNR of a layer by itself against float, in dB.
    max_loss_db : in "auto", by how much the network's PSNR against the truth may fall, in dB; where
        neither is given, 0.1.
    minimize : in "auto", what is least within the budget: the predicted "time", or the
        "multiplications".
    peaks : in "auto", the path of a file with the peaks of the machine whose time is predicted, by
        ``python -m benchmarks.peaks --json``; if None, those of one that is typical of the target.
    records : which tuned kernels are used: "shipped" (those that come with wqtvm), "none" (all by
        the schedules' own choice), or the path of a database that ``wqtvm tune`` wrote, before
        shipped ones. In "auto" their measured times count instead of predicted ones.
    include, exclude : shell patterns over layer names; one that matches nothing is an error.

    Raises
    ------
    ConfigError
        If a value is outside its choices.
    """

    algorithm: str = "winograd"
    tile: int | tuple[int, int] | None = None
    points: str | tuple[str, ...] = "best"
    precision: Precision = "hadamard"
    group_size: int = 32
    scales: str = "correlated"
    steps: Steps = "channel"
    weight_steps: WeightSteps = "tap"
    activation_steps: ActivationSteps = "pixel"
    others: Others = "float"
    images: Images = "float32"
    attention: Attention = "float32"
    calibrate: bool | None = None
    min_sqnr_db: float | None = None
    max_loss_db: float | None = None
    minimize: Minimize = "time"
    peaks: str | None = None
    records: str = "shipped"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _one_of("algorithm", self.algorithm, ALGORITHMS)
        self._check_tile()
        _one_of("precision", self.precision, PRECISIONS)
        if self.precision == "bfloat16" and self.algorithm != "direct":
            raise ConfigError(
                f"precision is 'bfloat16', but algorithm is {self.algorithm!r}; give algorithm "
                "'direct', or precision 'hadamard' or 'full'"
            )
        if not (isinstance(self.scales, str) and self.scales.endswith(SCALES_SUFFIX)):
            _one_of("scales", self.scales, SCALES, f"the path of a *{SCALES_SUFFIX} file")
        _one_of("steps", self.steps, STEPS)
        _one_of("weight_steps", self.weight_steps, WEIGHT_STEPS)
        _one_of("activation_steps", self.activation_steps, ACTIVATION_STEPS)
        _one_of("others", self.others, OTHERS)
        _one_of("images", self.images, IMAGES)
        _one_of("attention", self.attention, ATTENTION)
        _one_of("calibrate", self.calibrate, (None, True, False))
        if isinstance(self.points, str):
            _one_of("points", self.points, NAMED_POINTS)
        else:
            _texts("points", self.points)
        _texts("include", self.include)
        _texts("exclude", self.exclude)
        _budget("min_sqnr_db", self.min_sqnr_db, self.algorithm, least=-math.inf)
        _budget("max_loss_db", self.max_loss_db, self.algorithm, least=0.0)
        _one_of("minimize", self.minimize, MINIMIZE)
        if self.peaks is not None and not (isinstance(self.peaks, str) and self.peaks):
            raise ConfigError(f"peaks is {self.peaks!r}; give the path of a file, or None")
        if self.peaks is not None and self.algorithm != "auto":
            raise ConfigError(
                f"peaks is {self.peaks!r}, but algorithm is {self.algorithm!r}, which is used "
                "whatever it costs; give algorithm 'auto', or no peaks"
            )
        if not (isinstance(self.records, str) and self.records):
            raise ConfigError(
                f"records is {self.records!r}; give 'shipped', 'none', or the path of a database"
            )
        size = self.group_size
        if type(size) is not int or not 0 <= size <= LARGEST_GROUP or size % 4:
            raise ConfigError(
                f"group_size is {size!r}; give 0 (a whole layer) or a multiple of 4 up to "
                f"{LARGEST_GROUP}"
            )

    def tile_of(self, taps: int) -> int | tuple[int, int]:
        """Outputs a tile edge for a kernel of taps x taps, or rows and columns that differ."""
        if self.tile is None:
            return DEFAULT_TILES[taps]
        if isinstance(self.tile, tuple) and self.tile[0] == self.tile[1]:
            return self.tile[0]
        return self.tile

    def _check_tile(self) -> None:
        edges = self.tile if isinstance(self.tile, tuple) else (self.tile,)
        if self.tile is None:
            return
        if len(edges) not in (1, 2) or any(type(e) is not int or e not in TILES for e in edges):
            listed = ", ".join(map(str, TILES))
            raise ConfigError(
                f"tile is {self.tile!r}; give one of {listed}, or two of them, rows and columns"
            )
        if self.algorithm == "sfc":
            _one_of("with algorithm 'sfc', tile", self.tile, SFC_TILES)
        if len(edges) == 2 and not isinstance(self.points, str):
            raise ConfigError(
                f"tile is {self.tile} and points are {self.points}; points of one's own are for "
                f"square tiles: give one of {', '.join(NAMED_POINTS)}"
            )


def _one_of(name: str, value: object, choices: tuple[object, ...], *others: str) -> None:
    # The type, too: 4.0 equals 4, and would fail later.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        listed = ", ".join((*map(repr, choices), *others))
        raise ConfigError(f"{name} is {value!r}; give one of {listed}")


def _budget(name: str, value: object, algorithm: str, least: float) -> None:
    if value is None:
        return
    if algorithm != "auto":
        raise ConfigError(
            f"{name} is {value!r}, but algorithm is {algorithm!r}, which is used whatever it "
            f"costs; give algorithm 'auto', or no {name}"
        )
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value <= least
    ):
        above = f" above {least:g}" if math.isfinite(least) else ""
        raise ConfigError(f"{name} is {value!r}; give a number of dB{above}")


def _texts(name: str, values: object) -> None:
    """Refuse a text where several are wanted: it would be taken for its letters."""
    if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigError(f"{name} is {values!r}; give a tuple of texts, such as ('a', 'b')")
