"""What is compared: algorithms, precisions and scales, by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wqtvm import WinogradConfig, fastconv
from wqtvm.errors import ConfigError, WqtvmError
from wqtvm.fastconv import BilinearAlgorithm, ScaleSet, named_scales, standard_scales
from wqtvm.learning import resolve_scales
from wqtvm.quantization.scheme import Scheme

ALGORITHMS: Mapping[str, WinogradConfig] = {
    "F2": WinogradConfig(tile=2),
    "F3-complex": WinogradConfig(tile=3, points="complex"),
    "F4": WinogradConfig(tile=4),
    "F4-lavin": WinogradConfig(tile=4, points="lavin"),
    "F5-complex": WinogradConfig(tile=5, points="complex"),
    "F6-complex": WinogradConfig(tile=6, points="complex"),
    "F6": WinogradConfig(tile=6),
    "SFC4": WinogradConfig("sfc", tile=4),
    "SFC6": WinogradConfig("sfc", tile=6),
}
# At least one of the suffixes.
_SUFFIXED = re.compile(
    r"(?=.*-g\d|.*-cal)(?P<name>.+?)(-g(?P<group>\d+))?(?P<calibrated>-calibrated)?"
)
SCALES = ("standard", "row-norm", "correlated", "learned")


@dataclass(frozen=True)
class Variant:
    """One way to compute all eligible convolutions: a name for tables, and its configuration."""

    name: str
    config: WinogradConfig

    @property
    def scheme(self) -> Scheme:
        """The same for one layer of 3x3 taps."""
        config, algorithm = self.config, bilinear_algorithm(self.config)
        scales = _scales(config.scales, algorithm)
        if scales is None:
            raise ConfigError(f"{self.name}: no learned scales of {algorithm.name} are known")
        return Scheme(
            algorithm, scales, config.precision, config.group_size, config.steps,
            config.weight_steps, activation_steps=config.activation_steps,
        )  # fmt: skip

    @property
    def multiplications(self) -> float:
        """Per output and input channel, relative to the direct convolution's."""
        algorithm = bilinear_algorithm(self.config)
        return float(algorithm.multiplications_per_output) / algorithm.r**2


def bilinear_algorithm(config: WinogradConfig) -> BilinearAlgorithm:
    """What a configuration computes 3x3 convolutions by."""
    tile = config.tile_of(3)
    assert isinstance(tile, int)
    return fastconv.bilinear_algorithm(config.algorithm, tile, config.points)


def variants() -> dict[str, Variant]:
    """All variants, by name.

    In ``hadamard`` scales cancel, so that each algorithm is there once. In ``full`` there is one
    for each rule of scales, where the integers of B^T are exact; "learned" are those that come with
    wqtvm, where there is a set. At the end "tile" is the paper's setting, one step for a group's
    whole tile, and "axis" has one for a group's row or column of it; elsewhere each channel's row
    or column has its own.
    """
    found = {
        "direct-filter": WinogradConfig("direct", weight_steps="filter"),
        "direct-tap": WinogradConfig("direct"),
        "direct-image": WinogradConfig(
            "direct", group_size=0, weight_steps="filter", activation_steps="image"
        ),
    }
    for name, config in ALGORITHMS.items():
        found[f"{name}-hadamard"] = config
        for rule in SCALES:
            if _scales(rule, bilinear_algorithm(config)) is None:
                continue
            full = replace(config, precision="full", scales=rule)
            if not _exact(full):
                break
            found[f"{name}-full-{rule}"] = full
            steps = "axis" if rule == "correlated" else "tile"
            found[f"{name}-full-{rule}-{steps}"] = replace(full, steps=steps)
    return {name: Variant(name, config) for name, config in found.items()}


def chosen(names: list[str]) -> list[Variant]:
    """Return variants by name or by the start of their name, or by tile and points.

    "F4:0,2/3,-2/3,4/3,-4/3" is F(4,3) in ``hadamard`` with these points; behind any
    variant's name, "-g64" is that in groups of 64 channels (0: all of a layer), and "-calibrated"
    behind it that, calibrated on made-up inputs.

    Raises
    ------
    ConfigError
        If none has a name that starts so.
    """
    known = variants()
    found = []
    for name in names:
        if suffixed := _SUFFIXED.fullmatch(name):
            variant = known.get(suffixed["name"])
            if variant is None:
                raise ConfigError(f"variant is {name!r}; give a whole name before the suffixes")
            config = variant.config
            if suffixed["group"]:
                config = replace(config, group_size=int(suffixed["group"]))
            if suffixed["calibrated"]:
                config = replace(config, calibrate=True)
            found.append(Variant(name, config))
            continue
        if own := re.fullmatch(r"F(\d):(.+)", name):
            config = WinogradConfig(tile=int(own[1]), points=tuple(own[2].split(",")))
            found.append(Variant(name, config))
            continue
        matches = [variant for key, variant in known.items() if key.startswith(name)]
        if not matches:
            raise ConfigError(f"variant is {name!r}; give the start of one of {', '.join(known)}")
        found += [known[name]] if name in known else matches
    return list(dict.fromkeys(found)) if found else list(known.values())


def _exact(config: WinogradConfig) -> bool:
    """Whether the precision is exact for the algorithm's integers."""
    algorithm = bilinear_algorithm(config)
    try:
        Scheme(algorithm, standard_scales(algorithm), config.precision)
    except ConfigError:
        return False
    return True


def _scales(rule: str, algorithm: BilinearAlgorithm) -> ScaleSet | None:
    if rule != "learned":
        return named_scales(rule, algorithm)
    try:
        return resolve_scales("learned", algorithm)
    except WqtvmError:
        return None  # no set of this algorithm comes with wqtvm
