"""What was measured, as a file of JSON lines that only grows; and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Results:
    """Measurements by network and variant; of several of one kind the last counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[str, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    print(f"{path}: a truncated line is left out: {line[:60]!r}")
                    continue
                self.rows[row["network"], row["variant"]] = row

    def has(self, network: str, variant: str) -> bool:
        """Whether it is measured."""
        return (network, variant) in self.rows

    def add(
        self, network: str, variant: str, multiplications: float, measured: dict[str, Any]
    ) -> None:
        """Add a measurement, and write it at once."""
        row = {"network": network, "variant": variant, "multiplications": multiplications}
        row |= measured
        self.rows[network, variant] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def print_summary(results: Results, networks: list[str]) -> None:
    """Print one table in Markdown: PSNR against float and, in brackets, the loss against truth, dB.

    A variant is a row, a network a column; the steps for a whole tile are left to the other tables.
    """
    shown = [n for n in networks if any(name == n for name, _ in results.rows)]
    found = dict.fromkeys(v for (n, v) in results.rows if n in shown)
    print(f"| variant | {' | '.join(shown)} |")
    print("|---" * (len(shown) + 1) + "|")
    for variant in found:
        cells = [_cell(results.rows.get((name, variant)), variant) for name in shown]
        if sum(cell != "" for cell in cells) > 1:
            print(f"| {variant} | {' | '.join(cells)} |")


def _cell(row: dict[str, Any] | None, variant: str) -> str:
    if row is None:
        return ""
    text = f"{row['psnr_db']:.1f}"
    if row["loss_db"] is not None:
        text += f" ({row['loss_db']:+.2f})"
    if row["right"] is not None:
        text += f" ({row['right']}/{row['labelled']})"
    # What is planned differs in multiplications from network to network.
    return f"{text} x{row['multiplications']:.2f}" if "auto" in variant else text


def print_tables(results: Results, networks: list[str]) -> None:
    """Print, for each network, a table in Markdown."""
    for network in networks:
        rows = [row for (name, _), row in results.rows.items() if name == network]
        if rows:
            print(f"\n{network}\n")
            print("| variant | multiplications | PSNR dB | loss dB | top-1 | worst layer, dB |")
            print("|---|---|---|---|---|---|")
        for row in rows:
            loss = "" if row["loss_db"] is None else f"{row['loss_db']:+.2f}"
            right = "" if row["right"] is None else f"{row['right']}/{row['labelled']}"
            worst = f"{row['worst']} {row['worst_db']:.1f}"
            share = f"{row['multiplications']:.3f}"
            cells = (row["variant"], share, f"{row['psnr_db']:.2f}", loss, right, worst)
            print(f"| {' | '.join(cells)} |")
