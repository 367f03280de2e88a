"""Learned scales as a value and as files: what they are, how they were made, whom they fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..config import LEARNED, SCALES_SUFFIX
from ..errors import (
    AlgorithmError,
    AlreadyExistsError,
    ArtefactCorruptError,
    ArtefactError,
    ArtefactMissingFileError,
    ArtefactVersionError,
    ConfigError,
)
from ..fastconv import (
    NAMED_POINTS,
    SCALE_RULES,
    SFC_TILES,
    BilinearAlgorithm,
    ScaleSet,
    named_scales,
    sfc,
    winograd,
)

SCHEMA_VERSION = 1
NOISES = ("correlated", "gaussian", "uniform")
DEFAULT_RHO = 0.9
OPTIMIZERS = ("sgd", "adam")
_TENSORS = ("s_b", "s_g")


@dataclass(frozen=True)
class Provenance:
    """How scales were learned: with the same weights, the call that made them can be repeated.

    Attributes
    ----------
    algorithm, points : as of the bilinear algorithm, such as "F(4,3)".
    precision, group_size, steps, weight_steps : as in WinogradConfig, while learning.
    noise, rho : kind of the input noise, and the correlation of neighbours (None for white noise).
    weights : what the convolutions were.
    start : the closed form that learning started from.
    optimizer, learning_rate, layers_per_iteration, seed : of the learning.
    iterations : gradient steps until it ended.
    ended : why: "converged", "limit" (of iterations) or "interrupted".
    before_db, after_db : mean SQNR over layers on held-out noise, by the start's scales and these.
    wqtvm, torch : versions.
    """

    algorithm: str
    points: tuple[str, ...]
    precision: str
    group_size: int
    steps: str
    weight_steps: str
    noise: str
    rho: float | None
    weights: str
    start: str
    optimizer: str
    learning_rate: float
    layers_per_iteration: int
    seed: int
    iterations: int
    ended: str
    before_db: float
    after_db: float
    wqtvm: str
    torch: str


@dataclass(frozen=True)
class LearnedScales:
    """Scales for one algorithm, and how they were made.

    Attributes
    ----------
    scales : S_B and S_G, shared by all layers that have none of their own.
    provenance : how they were made.
    layers : scales of single layers, by name.
    """

    scales: ScaleSet
    provenance: Provenance
    layers: Mapping[str, ScaleSet] = field(default_factory=dict)

    def scales_for(self, algorithm: BilinearAlgorithm, layer: str | None = None) -> ScaleSet:
        """The scales of a layer, or those that are shared, if they are for this algorithm.

        Raises
        ------
        AlgorithmError
            If they were learned for another one, or for other points.
        """
        made = self.provenance
        if (made.algorithm, made.points) != (algorithm.name, algorithm.points):
            raise AlgorithmError(
                f"scales {self.scales.name!r} were learned for {made.algorithm} (points: "
                f"{', '.join(made.points) or 'none'}), not for {_described(algorithm)}; "
                "learn others by `wqtvm learn-scales`"
            )
        return self.scales if layer is None else self.layers.get(layer, self.scales)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the scales (safetensors) and, beside them, how they were made (JSON).

        Raises
        ------
        AlreadyExistsError, ArtefactError
            As ``check_destination``; ArtefactError also if a file cannot be written.
        """
        from safetensors.numpy import save

        path = Path(path)
        check_destination(path, overwrite)
        sets = {"": self.scales, **{f"{name}/": found for name, found in self.layers.items()}}
        content = save(
            {
                f"{prefix}{name}": np.array(getattr(found, name), dtype=np.float64)
                for prefix, found in sets.items()
                for name in _TENSORS
            }
        )
        document = {
            "schema_version": SCHEMA_VERSION,
            "sha256": hashlib.sha256(content).hexdigest(),
            "provenance": dataclasses.asdict(self.provenance),
        }
        try:
            path.write_bytes(content)
            _beside(path).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise ArtefactError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: str | Path, name: str | None = None) -> LearnedScales:
        """Read what ``save`` wrote; the scales are called ``name``, the path if None.

        Raises
        ------
        ArtefactMissingFileError
            If one of both files is not there.
        ArtefactCorruptError
            If a file is altered, or no such file.
        ArtefactVersionError
            If a newer wqtvm wrote it.
        """
        path = Path(path)
        content, text = _read(path), _read(_beside(path))
        try:
            document = json.loads(text)
            version = document["schema_version"]
            if type(version) is not int or version < 1:
                raise ValueError(f"schema_version is {version!r}")
            if version > SCHEMA_VERSION:
                raise ArtefactVersionError(
                    f"{_beside(path)}: schema_version is {version}, this wqtvm reads up to "
                    f"{SCHEMA_VERSION}; upgrade wqtvm"
                )
            sha256, provenance = document["sha256"], document["provenance"]
            made = Provenance(**{**provenance, "points": tuple(provenance["points"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ArtefactCorruptError(
                f"{_beside(path)}: it does not say how scales were learned "
                f"({type(error).__name__}: {error}); learn them again"
            ) from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ArtefactCorruptError(
                f"{path} was altered: its SHA-256 is not the one in {_beside(path).name}; "
                "copy both files again, or learn the scales again"
            )
        shared, layers = _scales(content, name or str(path), path)
        return cls(shared, made, layers)


def check_destination(path: str | Path, overwrite: bool) -> None:
    """Check that scales may be written to ``path``, and beside it.

    Raises
    ------
    AlreadyExistsError
        If a file is there, and overwriting was not asked for.
    ArtefactError
        If the name is not one of scales, or the folder does not exist.
    """
    path = Path(path)
    if path.suffix != SCALES_SUFFIX:
        raise ArtefactError(f"{path}: scales are saved as *{SCALES_SUFFIX}; give such a name")
    if not path.parent.is_dir():
        raise ArtefactError(f"{path}: the folder {path.parent} does not exist; make it first")
    for file in (path, _beside(path)):
        if file.exists() and not overwrite:
            raise AlreadyExistsError(
                f"{file} exists; give another path, or overwrite=True (--overwrite) to replace it"
            )


def shipped_scales(algorithm: BilinearAlgorithm) -> LearnedScales:
    """The learned scales that come with wqtvm: for any network, learned on random weights.

    Raises
    ------
    ConfigError
        If there are none for this algorithm and points.
    """
    files = shipped_files()
    for made_for, file in files.values():
        if (made_for.name, made_for.points) == (algorithm.name, algorithm.points):
            return LearnedScales.load(file, LEARNED)
    listed = ", ".join(files)
    raise ConfigError(
        f"scales are {LEARNED!r}, but none come with wqtvm for {_described(algorithm)} (there are: "
        f"{listed}); learn some by `wqtvm learn-scales`, and give their path"
    )


@cache
def shipped_files() -> Mapping[str, tuple[BilinearAlgorithm, Path]]:
    """Algorithms whose scales come with wqtvm, and the scales' paths, by names for messages."""
    folder = Path(__file__).parent / "sets"
    candidates = {
        f"F({tile},3) {points}": (winograd(tile, points), folder / f"f{tile}-{points}")
        for points in NAMED_POINTS
        for tile in NAMED_POINTS[points]
    }
    candidates |= {f"SFC-{tile}": (sfc(tile), folder / f"sfc{tile}") for tile in SFC_TILES}
    files = {
        name: (algorithm, path.with_suffix(SCALES_SUFFIX))
        for name, (algorithm, path) in candidates.items()
    }
    return MappingProxyType({name: found for name, found in files.items() if found[1].is_file()})


def learned_scales(scales: str, algorithm: BilinearAlgorithm) -> LearnedScales:
    """Scales that no formula gives: those that come with wqtvm, by the name "learned", or a file's.

    Raises
    ------
    ConfigError, AlgorithmError
        If they are not for this algorithm.
    ArtefactError
        As ``LearnedScales.load``.
    """
    found = shipped_scales(algorithm) if scales == LEARNED else LearnedScales.load(scales)
    found.scales_for(algorithm)
    return found


def resolve_scales(scales: str, algorithm: BilinearAlgorithm, layer: str | None = None) -> ScaleSet:
    """The scales of a configuration: a closed form, those that come with wqtvm, or a file's.

    Of a file, the scales of the named layer, if it has some of its own.

    Raises
    ------
    ConfigError, AlgorithmError
        If they are not for this algorithm.
    ArtefactError
        As ``LearnedScales.load``.
    """
    if scales in SCALE_RULES:
        return named_scales(scales, algorithm)
    return learned_scales(scales, algorithm).scales_for(algorithm, layer)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtefactMissingFileError(
            f"scales {path}: there is no such file; `wqtvm learn-scales` writes a *{SCALES_SUFFIX} "
            "and a *.json that stay together"
        ) from error
    except OSError as error:
        raise ArtefactError(f"scales {path} cannot be read: {error}") from error


def _scales(content: bytes, name: str, path: Path) -> tuple[ScaleSet, dict[str, ScaleSet]]:
    """The shared set, and those of layers by name."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors: dict[str, Any] = load(content)
        prefixes = dict.fromkeys(key.rpartition("/")[0] for key in sorted(tensors))
        sets = {
            prefix: ScaleSet(
                name,
                *(
                    tuple(map(float, tensors[f"{prefix}/{key}" if prefix else key]))
                    for key in _TENSORS
                ),
            )
            for prefix in prefixes
        }
        return sets.pop(""), sets
    except (SafetensorError, KeyError, TypeError, AlgorithmError) as error:
        raise ArtefactCorruptError(f"{path}: it holds no scales ({error}); learn them again") from (
            error
        )


def _described(algorithm: BilinearAlgorithm) -> str:
    if not algorithm.points:
        return algorithm.name if algorithm.m > 1 else f"{algorithm.name}, the direct convolution"
    return f"{algorithm.name} with points {', '.join(algorithm.points)}"
