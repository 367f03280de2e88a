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
