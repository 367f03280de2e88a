"""How it stands with a session: a live table on a terminal, else a line now and then."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence

from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..console import Display, console, table
from .session import Outcome, Standing

_LINE_SECONDS = 10.0


class Standings(Display):
    """Shows the standings on standard error; also the callback of ``tune``.

    Parameters
    ----------
    trials, minutes : what the search may take, for the time that is left.
    quiet : whether to show nothing.
    """

    def __init__(self, trials: int | None, minutes: float | None, quiet: bool = False) -> None:
        self._console = console(sys.stderr)
        self._trials, self._minutes, self._quiet = trials, minutes, quiet
        self.shown: Live | None = None
        self._said = -math.inf
        if self._console.is_terminal and not quiet:
            self.shown = Live(console=self._console, auto_refresh=False, transient=True)

    def __call__(self, standings: Sequence[Standing], trials: int, seconds: float) -> None:
        """Show them."""
        if self._quiet:
            return
        line = self._line(standings, trials, seconds)
        if self.shown is not None:
            self.shown.update(standings_table(standings, line), refresh=True)
        elif time.monotonic() - self._said >= _LINE_SECONDS:
            self._said = time.monotonic()
            self._console.print(f"  {line}")

    def _line(self, standings: Sequence[Standing], trials: int, seconds: float) -> str:
        raced = sum(each.winner is not None for each in standings)
        if raced:
            return f"race of the best against the default kernels: {raced} of {len(standings)}"
        measured = [each for each in standings if each.default_ms == each.default_ms]
        if len(measured) < len(standings):
            return f"default kernels: {len(measured)} of {len(standings)}, {_time(seconds)}"
        words = [f"{trials} trials", _time(seconds), f"{_network(standings, True):.4g} ms"]
        words.append(f"{_network(standings, False) / _network(standings, True):.3f} times faster")
        left = self._left(trials, seconds)
        return ", ".join(words + ([f"{_time(left)} left"] if math.isfinite(left) else []))

    def _left(self, trials: int, seconds: float) -> float:
        """Seconds of the search that are left."""
        left = math.inf if self._minutes is None else 60 * self._minutes - seconds
        if self._trials is not None and trials:
            left = min(left, (self._trials - trials) * seconds / trials)
        return max(left, 0.0)


def standings_table(standings: Sequence[Standing], title: str | None = None) -> Table:
    """Return the standings as a table."""
    shown = table(
        "layer", "times>", "trials>", "failed>", "default ms>", "best ms>", "GOPS>", "share>",
        "gain>", title=title,
    )  # fmt: skip
    network = _network(standings, True)
    for each in standings:
        if each.default_ms != each.default_ms:
            shown.add_row(escape(each.task.name), str(each.count), style="dim")
            continue
        best = each.best_ms
        gain = each.default_ms / best if each.winner is None else each.gain
        shown.add_row(
            escape(each.task.name),
            str(each.count),
            str(each.trials),
            str(each.failed or ""),
            f"{each.default_ms:.4g}",
            f"{best:.4g}",
            f"{2 * each.task.macs / best / 1e6:.0f}",
            f"{each.count * best / network:.0%}",
            f"{gain:.3f}" + ("" if each.winner is not None else " ?"),
        )
    return shown


def outcome_text(outcome: Outcome) -> str:
    """Say what a session found, in a few lines."""
    before, after = (_network(outcome.standings, best) for best in (False, True))
    won = sum(each.gain > 1 for each in outcome.standings)
    rate = outcome.trials / outcome.seconds if outcome.seconds else 0.0
    lines = [
        f"{outcome.trials} trials in {_time(outcome.seconds)}, {rate:.2f} a second"
        + (", ended by Ctrl-C" if outcome.interrupted else ""),
        f"{won} of {len(outcome.standings)} layers are faster than by default; all of them take "
        f"{after:.4g} ms instead of {before:.4g}",
        f"geometric mean of the gains: {outcome.gain:.3f}",
        f"Records are in {outcome.database}; use them by --records {outcome.database}, or "
        f'WinogradConfig(records="{outcome.database}").',
    ]
    if outcome.broken:
        numbers = ", ".join(map(str, outcome.broken))
        lines.append(
            f"Cut off in {outcome.database}, and left out: line {numbers}. All others are used; "
            "`wqtvm tune --prune` drops it."
        )
    lines += [
        f"layer {each.task.name}: {each.problem}; tune it again"
        for each in outcome.standings
        if each.problem
    ]
    return "\n".join(lines)


def _network(standings: Sequence[Standing], best: bool) -> float:
    """Milliseconds of all layers, as often as they are there."""
    times = ((each.best_ms if best else each.default_ms, each.count) for each in standings)
    return sum(ms * count for ms, count in times if math.isfinite(ms))


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
