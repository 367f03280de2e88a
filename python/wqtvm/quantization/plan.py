"""What is done with each convolution of a network, and why: a value to print, save and edit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from ..errors import ArtefactCorruptError, ArtefactVersionError, ConfigError, NotEligibleError
from ..fastconv import (
    SCALE_RULES,
    SFC_TILES,
    BilinearAlgorithm,
    ScaleSet,
    bilinear_algorithm,
    named_scales,
)
from .image_reference import MOST_PRODUCTS
from .plan_values import are_integers, are_numbers, are_positive, are_texts
from .scheme import ACTIVATION_STEPS, PRECISIONS, STEPS, WEIGHT_STEPS, Scheme

SCHEMA_VERSION = 1
ALGORITHMS = ("winograd", "sfc", "direct", "float")
IMAGES = ("float32", "float16", "bfloat16")
ATTENTION = ("float32", "bfloat16")


class Reason(Enum):
    """Why a layer has its algorithm; the values are what a saved plan holds."""

    ELIGIBLE = "eligible"  # it has what the configuration asks for
    KERNEL_SIZE = "kernel-size"
    STRIDE = "stride"
    DILATION = "dilation"
    GROUPS = "groups"
    PADDING = "padding"
    RANK = "rank"  # not a convolution of two dimensions
    DTYPE = "dtype"
    NO_ALGORITHM = "no-algorithm"  # what is configured has none for this kernel
    COMPUTED_WEIGHTS = "computed-weights"
    EXCLUDED = "excluded"
    NOT_INCLUDED = "not-included"
    BUDGET = "accuracy-budget"  # chosen by measuring, to keep it


@dataclass(frozen=True)
class LayerPlan:
    """What is done with one convolution.

    Attributes
    ----------
    name : the layer's name in PyTorch.
    input_shape : (images, input channels, rows, columns).
    weight_shape : (output channels, input channels of a group, kernel rows, kernel columns).
    stride, padding, dilation : (rows, columns).
    groups : groups of a grouped convolution, 1 for a plain one.
    algorithm : "winograd", "sfc", "direct" (int8 without a transform) or "float".
    tile : outputs a tile edge, or its rows and columns where they differ ("winograd" only); None
        unless "winograd" or "sfc".
    points : interpolation points as text, of the rows if the columns have others; None unless
        "winograd".
    precision, group_size, scales, steps, weight_steps : as in WinogradConfig; None if the algorithm
        is "float". In "bfloat16" nothing has a step: group_size is 0, weight_steps "filter".
    reason, detail : the code, and what there is to say about this layer.
    s_b, s_g : the scales themselves, where their name is none of a formula: a plan can be carried
        out without the file that they were read from. Else None.
    column_points : interpolation points of the columns of a tile that is no square. Else None.
    balance : what each input channel is multiplied, and its weights divided by; None if by nothing.
    correction : what is added to each output channel, the mean of its error taken off; or None.
    activation_steps : as in WinogradConfig; "pixel" unless the algorithm is "direct".
    predicted_ms : milliseconds that the layer is predicted to take, where algorithm "auto" compared
        times; else None.
    measured_ms : milliseconds that a tuned kernel of it took, where algorithm "auto" has a record
        of it; they count instead of the predicted ones. Else None.

    Raises
    ------
    ConfigError
        If a value is outside its choices, or does not go with the algorithm.
    """

    name: str
    input_shape: tuple[int, ...]
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    algorithm: str
    tile: int | tuple[int, int] | None
    points: tuple[str, ...] | None
    precision: str | None
    group_size: int | None
    scales: str | None
    steps: str | None
    weight_steps: str | None
    reason: Reason
    detail: str = ""
    s_b: tuple[float, ...] | None = None
    s_g: tuple[float, ...] | None = None
    column_points: tuple[str, ...] | None = None
    balance: tuple[float, ...] | None = None
    correction: tuple[float, ...] | None = None
    activation_steps: str = "pixel"
    predicted_ms: float | None = None
    measured_ms: float | None = None

    _LENGTHS: ClassVar[Mapping[str, int]] = {
        "input_shape": 4, "weight_shape": 4, "stride": 2, "padding": 2, "dilation": 2,
    }  # fmt: skip

    def __post_init__(self) -> None:
        for field, length in self._LENGTHS.items():
            numbers = getattr(self, field)
            least = 0 if field == "padding" else 1
            if not are_integers(numbers, least) or len(numbers) != length:
                self._refuse(field, f"{length} integers of at least {least}")
        if not are_integers((self.groups,), 1):
            self._refuse("groups", "an integer of at least 1")
        for field in ("name", "detail"):
            if not isinstance(getattr(self, field), str):
                self._refuse(field, "text")
        self._one_of("algorithm", ALGORITHMS)
        if not isinstance(self.reason, Reason):
            self._refuse("reason", "a Reason")
        for field in ("predicted_ms", "measured_ms"):
            if getattr(self, field) is not None and not are_positive((getattr(self, field),)):
                self._refuse(field, "None, or a positive number of milliseconds")
        self._check_image()
        if self.algorithm == "winograd":
            self._check_tile()
        elif self.algorithm == "sfc":
            if type(self.tile) is not int or self.tile not in SFC_TILES:
                self._refuse("tile", f"one of {', '.join(map(str, SFC_TILES))}")
            self._none("points", "column_points")
        else:
            self._none("tile", "points", "column_points")
        if self.algorithm == "float":
            self._none(
                "precision", "group_size", "scales", "steps", "weight_steps", "s_b", "s_g",
                "balance", "correction",
            )  # fmt: skip
            return
        self._check_stride()
        self._one_of("precision", PRECISIONS)
        self._one_of("steps", STEPS)
        self._one_of("weight_steps", WEIGHT_STEPS)
        if self.group_size is None or not are_integers((self.group_size,), 0):
            self._refuse("group_size", "an integer of at least 0")
        if not isinstance(self.scales, str):
            self._refuse("scales", "the name of scales")
        for field in ("s_b", "s_g"):
            values = getattr(self, field)
            if self.scales in SCALE_RULES:
                if values is not None:
                    self._refuse(field, f"None for scales {self.scales!r}")
            elif not are_positive(values):
                remedy = f"positive numbers, or scales one of {', '.join(SCALE_RULES)}"
                self._refuse(field, remedy)
        if self.balance is not None and (
            not are_positive(self.balance) or len(self.balance) != self.weight_shape[1]
        ):
            self._refuse("balance", "None, or a positive number for each input channel")
        if self.correction is not None and (
            not are_numbers(self.correction) or len(self.correction) != self.weight_shape[0]
        ):
            self._refuse("correction", "None, or a number for each output channel")
        if self.column_points is not None and self.scales not in SCALE_RULES:
            self._refuse("scales", f"one of {', '.join(SCALE_RULES)} for a tile that is no square")

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """(images, output channels, rows, columns)."""
        rows, columns = (
            (size + 2 * pad - dilation * (taps - 1) - 1) // stride + 1
            for size, pad, dilation, taps, stride in zip(
                self.input_shape[2:],
                self.padding,
                self.dilation,
                self.weight_shape[2:],
                self.stride,
                strict=True,
            )
        )
        return self.input_shape[0], self.weight_shape[0], rows, columns

    @property
    def label(self) -> str:
        """What tables call the algorithm: "F(4,3)", "F(6,3) +-i", "direct", "direct image"."""
        label = algorithm_label(self.algorithm, self.tile, self.weight_shape[2])
        if self.precision == "bfloat16":
            return f"{label} bfloat16"
        if self.activation_steps == "image":
            return f"{label} image"
        return (
            f"{label} +-i" if self.algorithm == "winograd" and "i" in (self.points or ()) else label
        )

    @property
    def is_int8(self) -> bool:
        """Whether its products are of integers: neither float nor bfloat16."""
        return self.algorithm != "float" and self.precision != "bfloat16"

    @property
    def kernel_text(self) -> str:
        """The weights' shape as tables show it, with the stride if there is one: "64x32x3x3/2"."""
        stride = "x".join(str(step) for step in dict.fromkeys(self.stride))
        shape = "x".join(map(str, self.weight_shape))
        return shape if self.stride == (1, 1) else f"{shape}/{stride}"

    @property
    def ms(self) -> float | None:
        """Milliseconds by measurement, or else as predicted; None if neither is known."""
        return self.predicted_ms if self.measured_ms is None else self.measured_ms

    @property
    def ms_text(self) -> str:
        """The milliseconds as tables show them, or nothing."""
        if self.measured_ms is not None:
            return f"{self.measured_ms:.3g} measured"
        return "" if self.predicted_ms is None else f"{self.predicted_ms:.3g}"

    def bilinear_algorithms(self) -> tuple[BilinearAlgorithm, BilinearAlgorithm]:
        """The bilinear algorithms of an int8 layer's rows and columns: the same of a square tile.

        Raises
        ------
        NotEligibleError
            If the layer is computed in float.
        """
        if self.algorithm == "float":
            raise NotEligibleError(
                f"layer {self.name}: computed in float ({self.reason.value}: {self.detail}); "
                "it has no bilinear algorithm"
            )
        taps = self.weight_shape[2]
        if isinstance(self.tile, tuple):
            edges, points = self.tile, (self.points, self.column_points)
            rows, columns = (
                bilinear_algorithm(self.algorithm, edge, p, taps)
                for edge, p in zip(edges, points, strict=True)
            )
            return rows, columns
        both = bilinear_algorithm(self.algorithm, self.tile, self.points, taps)
        return both, both

    def scheme(self) -> Scheme:
        """How an int8 layer is quantized.

        Raises
        ------
        NotEligibleError
            If the layer is computed in float.
        """
        rows, columns = self.bilinear_algorithms()
        # Never None here; written so that the type checker sees it too.
        name = self.scales or ""
        if self.s_b is None or self.s_g is None:
            scales = named_scales(name, rows)
        else:
            scales = ScaleSet(name, self.s_b, self.s_g)
        square = self.column_points is None
        return Scheme(
            rows,
            scales,
            self.precision or "",
            self.group_size or 0,
            self.steps or "",
            self.weight_steps or "",
            None if square else columns,
            None if square else named_scales(name, columns),
            self.activation_steps,
        )

    def _check_stride(self) -> None:
        if self.algorithm != "direct" and self.stride != (1, 1):
            self._refuse("stride", f"(1, 1) for algorithm {self.algorithm!r}, or 'direct'")
        if self.stride[0] != self.stride[1]:
            self._refuse("stride", "two equal numbers, or algorithm 'float'")
        if self.stride != (1, 1) and self.precision == "full":
            self._refuse("precision", "'hadamard' where the stride is not (1, 1)")
        if self.precision == "bfloat16":
            if self.algorithm != "direct":
                self._refuse("precision", f"'hadamard' for algorithm {self.algorithm!r}")
            if self.group_size != 0:
                self._refuse("group_size", "0 where the precision is 'bfloat16'")
            if self.weight_steps != "filter":
                self._refuse("weight_steps", "'filter' where the precision is 'bfloat16'")
            if self.activation_steps != "pixel":
                self._refuse("activation_steps", "'pixel' where the precision is 'bfloat16'")

    def _check_image(self) -> None:
        self._one_of("activation_steps", ACTIVATION_STEPS)
        if self.activation_steps == "pixel":
            return
        if self.algorithm != "direct":
            self._refuse("activation_steps", f"'pixel' for algorithm {self.algorithm!r}")
        if self.group_size != 0:
            self._refuse("group_size", "0 where activation_steps are 'image'")
        if self.weight_steps != "filter":
            self._refuse("weight_steps", "'filter' where activation_steps are 'image'")
        if math.prod(self.weight_shape[1:]) > MOST_PRODUCTS:
            self._refuse(
                "activation_steps",
                f"'pixel' for more than {MOST_PRODUCTS} channels times taps, whose products may "
                "not fit int32",
            )

    def _check_tile(self) -> None:
        edges = self.tile if isinstance(self.tile, tuple) else (self.tile,)
        if (
            not are_integers(edges, 1)
            or len(edges) > 2
            or (len(edges) == 2 and len(set(edges)) == 1)
        ):
            self._refuse("tile", "an integer of at least 1, or two that differ, rows and columns")
        if not are_texts(self.points):
            self._refuse("points", "the interpolation points as text")
        if len(edges) == 1:
            if self.column_points is not None:
                self._refuse("column_points", "None for a square tile")
        elif not are_texts(self.column_points):
            self._refuse("column_points", "the interpolation points of the columns as text")

    def _one_of(self, field: str, choices: tuple[str, ...]) -> None:
        if getattr(self, field) not in choices:
            self._refuse(field, f"one of {', '.join(choices)}")

    def _none(self, *names: str) -> None:
        for field in names:
            if getattr(self, field) is not None:
                self._refuse(field, f"None for algorithm {self.algorithm!r}")

    def _refuse(self, field: str, remedy: str) -> None:
        raise ConfigError(f"layer {self.name}: {field} is {getattr(self, field)!r}; give {remedy}")


@dataclass(frozen=True)
class Plan:
    """What is done with each convolution of a network, in the order of execution.

    Attributes
    ----------
    layers : the convolutions.
    images, attention : as in WinogradConfig.

    Raises
    ------
    ConfigError
        If two layers have the same name, or there are no such images or attention.
    """

    layers: tuple[LayerPlan, ...]
    images: str = "float32"
    attention: str = "float32"

    COLUMNS: ClassVar[tuple[str, ...]] = (
        "layer", "input", "kernel", "algorithm", "points", "precision", "group", "scales", "steps",
        "ms", "reason",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.images not in IMAGES:
            raise ConfigError(f"images is {self.images!r}; give one of {', '.join(IMAGES)}")
        if self.attention not in ATTENTION:
            listed = ", ".join(ATTENTION)
            raise ConfigError(f"attention is {self.attention!r}; give one of {listed}")
        names = [layer.name for layer in self.layers]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"layer {name} is in the plan twice; give every layer one name")

    def layer(self, name: str) -> LayerPlan:
        """The layer of this name.

        Raises
        ------
        ConfigError
            If there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        listed = ", ".join(layer.name for layer in self.layers) or "none"
        raise ConfigError(f"layer {name} is not in the plan; its layers are: {listed}")

    def rows(self) -> tuple[tuple[str, ...], ...]:
        """One row of texts per layer, under COLUMNS."""
        return tuple(_row(layer) for layer in self.layers)

    def __str__(self) -> str:
        rows = (self.COLUMNS, *self.rows())
        widths = [max(len(row[column]) for row in rows) for column in range(len(self.COLUMNS))]
        lines = [
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join([*lines, *self.remarks()])

    def remarks(self) -> list[str]:
        """What is to be said of the network as a whole: a line each."""
        remarks = []
        if self.images != "float32":
            remarks.append(f"images between layers: {self.images}")
        if self.attention != "float32":
            remarks.append(f"products of attention: {self.attention}")
        return remarks

    def to_json(self) -> str:
        """The plan as JSON text, for from_json."""
        layers = ",\n".join(_layer_to_json(layer) for layer in self.layers)
        version = f'"schema_version": {SCHEMA_VERSION}'
        whole = f'"images": "{self.images}",\n  "attention": "{self.attention}"'
        head = f'{{\n  {version},\n  {whole},\n  "layers": ['
        return f"{head}\n{layers}\n  ]\n}}\n" if layers else f"{head}]\n}}\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that to_json wrote.

        Raises
        ------
        ArtefactVersionError
            If a newer wqtvm wrote it.
        ArtefactCorruptError
            If it is no plan: names what is wrong.
        """
        try:
            document = json.loads(text)
        except ValueError as error:
            raise ArtefactCorruptError(f"plan: no JSON ({error}); write it again") from error
        version = document.get("schema_version") if isinstance(document, dict) else None
        if not isinstance(version, int) or version < 1:
            raise ArtefactCorruptError(f"plan: schema_version is {version!r}; it must be a number")
        if version > SCHEMA_VERSION:
            raise ArtefactVersionError(
                f"plan: schema_version is {version}, this wqtvm reads up to {SCHEMA_VERSION}; "
                "upgrade wqtvm"
            )
        layers = document.get("layers")
        if not isinstance(layers, list):
            raise ArtefactCorruptError(f"plan: layers are {layers!r}; they must be a list")
        try:
            planned = tuple(_layer_from_json(index, layer) for index, layer in enumerate(layers))
            whole = (document.get(name, "float32") for name in ("images", "attention"))
            return cls(planned, *whole)
        except ConfigError as error:
            raise ArtefactCorruptError(f"plan: {error}") from error


def _layer_to_json(layer: LayerPlan) -> str:
    """A field a line, to be edited, however many numbers it has."""
    entry = {**asdict(layer), "reason": layer.reason.value}
    lines = (f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in entry.items())
    return "    {\n" + ",\n".join(lines) + "\n    }"


def _layer_from_json(index: int, entry: object) -> LayerPlan:
    names = {field.name for field in fields(LayerPlan)}
    # What has a default may be missing: plans of before knew less.
    needed = {field.name for field in fields(LayerPlan) if field.default is MISSING}
    found = set(entry) if isinstance(entry, dict) else set()
    if not isinstance(entry, dict) or not needed <= found <= names:
        raise ArtefactCorruptError(
            f"plan: layer {index} lacks {sorted(needed - found)} and has unknown "
            f"{sorted(found - names)}; write it again"
        )
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()
    }
    try:
        values["reason"] = Reason(values["reason"])
    except ValueError as error:
        raise ArtefactCorruptError(
            f"plan: layer {values['name']}: reason is {values['reason']!r}; "
            f"give one of {', '.join(reason.value for reason in Reason)}"
        ) from error
    return LayerPlan(**values)


def algorithm_label(algorithm: str, tile: int | tuple[int, int] | None, taps: int = 3) -> str:
    """What tables call an algorithm: "F(4,3)", "F(4x2,3)", "SFC-4(4,3)", "direct" or "float"."""
    edges = "x".join(map(str, tile)) if isinstance(tile, tuple) else str(tile)
    labels = {"winograd": f"F({edges},{taps})", "sfc": f"SFC-{edges}({edges},{taps})"}
    return labels.get(algorithm, algorithm)


def _row(layer: LayerPlan) -> tuple[str, ...]:
    reason = f"{layer.reason.value}: {layer.detail}" if layer.detail else layer.reason.value
    group = {None: "", 0: "whole"}.get(layer.group_size, str(layer.group_size))
    return (
        layer.name,
        "x".join(map(str, layer.input_shape)),
        layer.kernel_text,
        layer.label,
        " x ".join(" ".join(points) for points in (layer.points, layer.column_points) if points),
        layer.precision or "",
        group,
        layer.scales or "",
        layer.steps or "",
        layer.ms_text,
        reason,
    )
