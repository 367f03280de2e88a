"""Points that measuring found: records, which say how a layer is computed best on a target.

A record is one line of JSON of a database that ``wqtvm tune`` writes, of the kind "winner". Those
of the folder ``records`` come with wqtvm, one file a target. What a layer's record is found by is
its shape, its algorithm, the dtype of its images and the number of threads: never its weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import TuningDatabaseError
from ..topi.direct_workload import DirectWorkload
from ..topi.layer import Work
from .kernels import kernels_of
from .narrow_parameters import CONVERSIONS, WIDE
from .space import Value

if TYPE_CHECKING:
    from ..target import TargetRecord

FOLDER = Path(__file__).parent / "records"
SHIPPED, NONE = "shipped", "none"
WINNER = "winner"


@dataclass(frozen=True)
class Winner:
    """The best point of a layer that was found, from runs that took turns with the default one.

    Attributes
    ----------
    key : of the layer, see ``key_of``.
    point : a value for each knob of its space.
    ms, default_ms : medians of milliseconds, of the point and of the schedule's own choice.
    """

    key: str
    point: Mapping[str, Value]
    ms: float
    default_ms: float


def key_of(work: Work, record: TargetRecord, threads: int, images: str = WIDE) -> str:
    """What a layer's record is found by: JSON text, the same for all weights.

    ``images`` is the dtype of what the layer takes and gives.
    """
    scheme = work.scheme
    direct = isinstance(work, DirectWorkload)
    axes = {axis.algorithm.name: axis.algorithm for axis in (scheme.row_axis, scheme.column_axis)}
    fields: dict[str, Any] = {
        "target": record.name,
        "threads": threads,
        "algorithm": "direct" if direct else scheme.name,
        "points": [",".join(algorithm.points) for algorithm in axes.values()],
        "precision": scheme.precision,
        "group": scheme.group_size,
        "steps": scheme.steps if scheme.precision == "full" else None,
        "weight_steps": scheme.weight_steps,
        "kernel": scheme.kernel,
        "stride": work.stride if isinstance(work, DirectWorkload) else 1,
        "padding": work.padding,
        "batch": work.batch,
        "size": [work.height, work.width],
        "channels": [work.in_channels, work.out_channels],
    }
    if scheme.activation_steps != "pixel":  # not in keys of before
        fields["activation_steps"] = scheme.activation_steps
    if images != WIDE:
        fields["images"] = images
    return json.dumps(fields)


class Records:
    """Winners by their layers' keys."""

    def __init__(self, winners: Iterable[Winner] = ()) -> None:
        self._winners = {winner.key: winner for winner in winners}

    def __len__(self) -> int:
        return len(self._winners)

    def __iter__(self) -> Any:
        return iter(self._winners.values())

    def winner(
        self, work: Work, record: TargetRecord, threads: int, images: str = WIDE
    ) -> Winner | None:
        """The winner of a layer with images of a dtype, else of another one, or None.

        None also where its point is none of the space: another version of the schedules, or of the
        program that wrote it, had other knobs.
        """
        keys = [key_of(work, record, threads, dtype) for dtype in (images, WIDE, *CONVERSIONS)]
        found = [self._winners[key] for key in keys if key in self._winners]
        if not found:
            return None
        space = kernels_of(record).space(work, threads)
        return next((winner for winner in found if space.contains(winner.point)), None)

    def divided(self, work: Work, record: TargetRecord, threads: int, images: str = WIDE) -> Work:
        """The workload in the sizes of its record, or else of the schedule's own choice."""
        found = self.winner(work, record, threads, images)
        point = None if found is None else found.point
        divided: Work = kernels_of(record).divided(work, threads, point)
        return divided


def records_of(record: TargetRecord, source: str = SHIPPED) -> Records:
    """The records for a target.

    Parameters
    ----------
    source : "shipped", "none", or the path of a database, whose records come before shipped ones.

    Raises
    ------
    TuningDatabaseError
        If the database is not there, or is none.
    """
    if source == NONE:
        return Records()
    paths = [FOLDER / f"{record.name.removeprefix('wq/')}.jsonl"]
    winners = winners_of(paths[0]) if paths[0].is_file() else ()
    if source != SHIPPED:
        path = Path(source)
        if not path.is_file():
            raise TuningDatabaseError(
                f"records {source}: there is no such file; write it by wqtvm tune --database "
                f"{source}, or give {SHIPPED!r} or {NONE!r}"
            )
        winners = (*winners, *winners_of(path))
    return Records(winners)


def winners_of(path: Path) -> tuple[Winner, ...]:
    """The winners of a database, the last of a layer last.

    Raises
    ------
    TuningDatabaseError
        If it cannot be read, or has no line that wqtvm wrote.
    """
    return _winners_of(path, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=16)
def _winners_of(path: Path, changed: int) -> tuple[Winner, ...]:
    entries = read_lines(path)[0]
    return tuple(winner_from(entry) for entry in entries if entry["kind"] == WINNER)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """What the lines of a database hold, and the numbers of those that are no JSON: cut off.

    Raises
    ------
    TuningDatabaseError
        If it cannot be read, or has lines, but none that wqtvm wrote.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise TuningDatabaseError(f"database {path} cannot be read: {error}") from error
    entries, broken = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if isinstance(entry, dict) and isinstance(entry.get("kind"), str):
            entries.append(entry)
        else:
            broken.append(number)
    if broken and not entries:
        raise TuningDatabaseError(
            f"{path} is no database of wqtvm tune: none of its lines is; give another path"
        )
    return entries, broken


def point_from(values: Mapping[str, Any]) -> dict[str, Value]:
    """A point as JSON holds it."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}


def winner_from(entry: Mapping[str, Any]) -> Winner:
    """A winner as JSON holds it.

    Raises
    ------
    TuningDatabaseError
        If a field is missing, or no number.
    """
    try:
        return Winner(
            key=json.dumps(entry["key"]),
            point=point_from(entry["point"]),
            ms=float(entry["ms"]),
            default_ms=float(entry["default_ms"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TuningDatabaseError(
            f"a winner's record lacks a field, or has a wrong one ({error!r}): {dict(entry)}; "
            "remove that line, or tune the layer again"
        ) from error
