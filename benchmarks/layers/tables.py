"""The arithmetic of the tables, and the tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from ..peaks import Peaks
from .layers import Layer
from .peers import Variant, variants
from .peers.base import BYTES, KIND_BYTES
from .race import Row
from .results import Record
from .transforms import transform_operations

KIB, MIB = 1 << 10, 1 << 20
DOUBTFUL_DB = 25.0  # below it, int8 is hardly of use: its time is marked


def floor_seconds(layer: Layer, variant: Variant, peaks: Peaks, isa: str) -> float:
    """Seconds that a variant takes at least: its products at the peak, or its bytes once.

    To that come transforms, in float32: an operation takes the time of a multiply-add. Bytes are
    those of the input, the output, and the weights in the form that is streamed; they come as fast
    as from the smallest cache that holds them all.
    """
    operations = 2 * layer.macs * variant.products
    weights = layer.out_channels * layer.weights * KIND_BYTES[variant.kind] * variant.weight_growth
    moved = (
        layer.input_size * BYTES[variant.takes] + layer.output_size * BYTES[variant.gives] + weights
    )
    transforms = 0.0
    if variant.transforms is not None and layer.plain:
        transforms = 2 * transform_operations(layer, *variant.transforms) / peaks.float32
    products = operations / peaks.product(variant.kind, isa)
    return max(products, moved / peaks.bandwidth(moved)) + transforms


def fastest(record: Record) -> Record:
    """Return the contest with each variant's fastest round as its time."""
    rows = [replace(row, ms=min(row.rounds_ms)) for row in record.contest.rows]
    return replace(record, contest=replace(record.contest, rows=rows))


def best(rows: Sequence[Row], *, ours: bool) -> Row | None:
    """Return the fastest of ours or of the peers."""
    known = variants()
    candidates = [row for row in rows if known[row.name].ours == ours]
    return min(candidates, key=lambda row: row.ms, default=None)


def ratio(record: Record) -> float | None:
    """How many times as fast the best of ours is as the best peer; None if either is missing."""
    peer, ours = best(record.contest.rows, ours=False), best(record.contest.rows, ours=True)
    return peer.ms / ours.ms if peer and ours else None


def geometric_mean(values: Sequence[float]) -> float:
    """Return the geometric mean, NaN of none."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def contest_table(record: Record) -> list[str]:
    """Lines of the table of one contest, a row a variant."""
    layer, setting, peaks = record.layer, record.setting, record.peaks
    peer = best(record.contest.rows, ours=False)
    known = variants()
    lines = [
        f"### {layer.name}, {_setting(record)}",
        "",
        f"{2 * layer.macs / 1e9:.3g} GOP as direct convolution; im2col in int8 "
        f"{layer.im2col_bytes / KIB:.0f} KiB; others took {record.contest.others_cpus:.1f} CPUs",
        "",
        "| | in to out | ms | GOPS | times the best peer | floor, ms | of the floor | SQNR dB "
        "| workspace, KiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in record.contest.rows:
        variant = known[row.name]
        floor = 1e3 * floor_seconds(layer, variant, peaks, setting.isa)
        against = f"{peer.ms / row.ms:.2f}" if peer else ""
        space = "" if row.workspace is None else f"{row.workspace / KIB:.0f}"
        lines.append(
            f"| {row.name} | {variant.takes} to {variant.gives} | {milliseconds(row.ms)} "
            f"| {2 * layer.macs / row.ms / 1e6:.0f} | {against} | {milliseconds(floor)} "
            f"| {floor / row.ms:.0%} | {row.quality['sqnr_db']:.1f} | {space} |"
        )
    for name, why in record.contest.absent.items():
        lines += ["", f"Not measured: {name}: {why}"]
    return lines


def summary_table(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """Lines of a table with a layer a row, the variants' times and SQNR beside each other."""
    known = variants()
    shown = [n for n in names if any(r.name == n for x in records for r in x.contest.rows)]
    lines = [
        f"| layer | {' | '.join(shown)} | best peer | best of ours | times |",
        f"|---|{'---:|' * len(shown)}---|---|---:|",
    ]
    for record in records:
        rows = {row.name: row for row in record.contest.rows}
        peer, ours = best(record.contest.rows, ours=False), best(record.contest.rows, ours=True)
        cells = [_cell(rows.get(name), known[name]) for name in shown]
        named = [row.name if row else "" for row in (peer, ours)]
        times = ratio(record)
        last = "" if times is None else f"{times:.2f}"
        lines.append(f"| {record.layer.name} | {' | '.join((*cells, *named, last))} |")
    large = [times for r in records if r.layer.large and (times := ratio(r)) is not None]
    if large:
        lines += [
            "",
            f"Geometric mean over the {len(large)} maps of 32 and larger: "
            f"{geometric_mean(large):.2f} times the best peer.",
        ]
    return lines


def workspace_table(records: Sequence[Record]) -> list[str]:
    """Lines of a table of what ours allocate, in MiB, beside an im2col of the int8 input."""
    shown = [v.name for v in variants().values() if v.ours]
    lines = [
        f"| workspace, MiB | {' | '.join(shown)} | im2col |",
        f"|---|{'---:|' * (len(shown) + 1)}",
    ]
    for record in records:
        spaces = {row.name: row.workspace for row in record.contest.rows}
        cells = [
            "" if (space := spaces.get(name)) is None else f"{space / MIB:.2f}" for name in shown
        ]
        cells.append(f"{record.layer.im2col_bytes / MIB:.2f}")
        lines.append(f"| {record.layer.name} | {' | '.join(cells)} |")
    return lines


def notes(*, fastest: bool = False) -> list[str]:
    """What a reader has to know to read the tables rightly."""
    times = (
        "the medians of the fastest round" if fastest else "medians of the medians of all rounds"
    )
    return [
        f"Times are {times}, in ms. Inputs are smooth noise, one seed "
        "for all. Peers' int8 is static and calibrated on the very input that is timed, their "
        "best case (activations from their least to their largest value, weights by the largest "
        "of each filter): PyTorch, OpenVINO, ONNX Runtime and LiteRT take and give 8-bit tensors, "
        "and their SQNR includes the rounding of the result; ncnn and MNN take and give float and "
        "quantize within the run, ncnn symmetrically, MNN calibrated by its own tool on a crop of "
        f"at most {1 << 20} values. wqtvm takes and gives float, and quantizes within the run, "
        "without calibration. The floor is max(products / peak, bytes / bandwidth), plus "
        "transforms by float32 multiply-adds at their peak.",
        f"An asterisk marks int8 below {DOUBTFUL_DB:.0f} dB.",
    ]


def milliseconds(ms: float) -> str:
    """Return a time with three digits."""
    return f"{ms:.3f}" if ms < 1 else f"{ms:.2f}" if ms < 10 else f"{ms:.1f}"


def _cell(row: Row | None, variant: Variant) -> str:
    if row is None:
        return ""
    sqnr_db = row.quality["sqnr_db"]
    mark = "*" if variant.kind == "int8" and not sqnr_db >= DOUBTFUL_DB else ""
    quality = "" if variant.kind == "float32" else f" ({sqnr_db:.0f} dB)"
    return f"{milliseconds(row.ms)}{quality}{mark}"


def _setting(record: Record) -> str:
    setting, peaks = record.setting, record.peaks
    plural = "s" * (setting.threads > 1)
    text = f"{setting.threads} thread{plural}" + ", CPU time" * (setting.clock == "cpu")
    if peaks.amx is None:
        return f"{text}, no AMX"
    if setting.restriction:
        return f"{text}, restricted to {setting.isa.upper()}"
    # The same machine may load tiles fast today and slowly tomorrow.
    return f"{text}, AMX at {peaks.amx / 1e9:.0f} GOPS"
