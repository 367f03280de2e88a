"""What is compared: algorithms, precisions and scales, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wqtvm.errors import ConfigError, WqtvmError
from wqtvm.fastconv import BilinearAlgorithm, ScaleSet, direct, named_scales, sfc, winograd
from wqtvm.learning import resolve_scales
from wqtvm.quantization.scheme import Scheme

ALGORITHMS: Mapping[str, BilinearAlgorithm] = {
    "F2": winograd(2),
    "F4": winograd(4),
    "F4-lavin": winograd(4, "lavin"),
    "F6": winograd(6),
    "SFC4": sfc(4),
    "SFC6": sfc(6),
}
SCALES = ("standard", "row-norm", "correlated", "learned")
GROUP_SIZE = 32


@dataclass(frozen=True)
class Variant:
    """One way to compute all eligible convolutions: a name for tables, and its scheme."""

    name: str
    scheme: Scheme

    @property
    def multiplications(self) -> float:
        """Per output and input channel, relative to the direct convolution's."""
        algorithm = self.scheme.algorithm
        return float(algorithm.multiplications_per_output) / algorithm.r**2


def variants() -> dict[str, Variant]:
    """All variants, by name.

    In ``hadamard`` scales cancel, so that each algorithm is there once. In ``full`` there is one
    for each rule of scales; "learned" are those that come with wqtvm, where there is a set. The
    paper's setting, one step for the whole tile, is "tile" at the end.
    """
    unit = named_scales("standard", direct())
    found = {
        "direct-filter": Scheme(direct(), unit, weight_steps="filter"),
        "direct-tap": Scheme(direct(), unit),
    }
    for name, algorithm in ALGORITHMS.items():
        found[f"{name}-hadamard"] = Scheme(algorithm, named_scales("standard", algorithm))
        for rule in SCALES:
            scales = _scales(rule, algorithm)
            if scales is None:
                continue
            found[f"{name}-full-{rule}"] = Scheme(algorithm, scales, "full", GROUP_SIZE)
            if rule != "correlated":
                tile = Scheme(algorithm, scales, "full", GROUP_SIZE, steps="tile")
                found[f"{name}-full-{rule}-tile"] = tile
    return {name: Variant(name, scheme) for name, scheme in found.items()}


def chosen(names: list[str]) -> list[Variant]:
    """Return variants by name or by the start of their name.

    Raises
    ------
    ConfigError
        If none has a name that starts so.
    """
    known = variants()
    found = []
    for name in names:
        matches = [variant for key, variant in known.items() if key.startswith(name)]
        if not matches:
            raise ConfigError(f"variant is {name!r}; give the start of one of {', '.join(known)}")
        found += [known[name]] if name in known else matches
    return list(dict.fromkeys(found)) if found else list(known.values())


def _scales(rule: str, algorithm: BilinearAlgorithm) -> ScaleSet | None:
    if rule != "learned":
        return named_scales(rule, algorithm)
    try:
        return resolve_scales("learned", algorithm)
    except WqtvmError:
        return None  # no set of this algorithm comes with wqtvm
