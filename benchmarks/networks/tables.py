"""The tables of the end-to-end race in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from ..layers.peers.base import Competitor
from ..layers.race import Contest, Row
from ..layers.tables import milliseconds


def table(contest: Contest, competitors: Iterable[Competitor]) -> list[str]:
    """Lines of a table with a row a variant, and of what was not measured."""
    known = {variant.name: variant for each in competitors for variant in each.variants}
    peers = [row for row in contest.rows if not known[row.name].ours]
    floats = [row for row in peers if known[row.name].kind == "float32"]
    lines = [
        "| | ms | times the fastest peer | times the fastest float | PSNR against float, dB "
        "| true PSNR, dB | its loss, dB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in contest.rows:
        quality = [f"{row.quality['psnr_db']:.1f}", "", ""]
        if "true_psnr_db" in row.quality:
            loss = 0.0 - round(row.quality["true_change_db"], 2)  # never "-0.00"
            quality[1:] = f"{row.quality['true_psnr_db']:.2f}", f"{loss:.2f}"
        cells = [row.name, milliseconds(row.ms), ratio(peers, row), ratio(floats, row), *quality]
        lines.append(f"| {' | '.join(cells)} |")
    for name, why in contest.absent.items():
        lines += ["", f"Not measured: {name}: {why}"]
    return lines


def ratio(peers: list[Row], row: Row) -> str:
    """How many times as fast a row is as the fastest of these."""
    return f"{min(peer.ms for peer in peers) / row.ms:.2f}" if peers else ""


def notes() -> list[str]:
    """What a reader has to know to read the tables rightly."""
    return [
        "Times are medians of the medians of all rounds. All take and give float32 pictures in "
        "planes. PSNR is the least of all rounds, peak 1; the loss is that of the true PSNR "
        "against float PyTorch's. Peers' int8 is static and calibrated on the very picture that is "
        "timed, their best case; wqtvm is given no data.",
        "LiteRT is not here: it reads models in a format of its own, and the packages of the race "
        "have no converter to it.",
    ]
