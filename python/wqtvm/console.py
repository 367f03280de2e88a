"""What the command line shows: tables on standard output, what it is doing on standard error.

Colours, where the terminal has them and NO_COLOR is not set; plain text into files and pipes.
"""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from .demo.demo import Demonstration
    from .doctor import Diagnosis
    from .quantization.plan import LayerPlan, Plan
    from .report import AccuracyReport

# Wide enough for every table of ours, where there is no terminal to fit it to.
_WIDTH_OF_FILES = 200


def console(stream: TextIO | None = None) -> Console:
    """Return a console on a stream, standard output if None."""
    stream = stream or sys.stdout
    fixed = stream.isatty() or "COLUMNS" in os.environ
    return Console(file=stream, width=None if fixed else _WIDTH_OF_FILES, highlight=False)


def say(message: str, quiet: bool = False) -> None:
    """Tell the user what is going on, on standard error, unless ``quiet``."""
    if not quiet:
        console(sys.stderr).print(escape(message))


class Display:
    """Shows something on standard error while it is entered.

    Attributes
    ----------
    shown : what rich shows; None to show nothing.
    """

    shown: Progress | Live | None

    def __enter__(self) -> Self:
        if self.shown is not None:
            self.shown.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.shown is not None:
            self.shown.stop()


class Steps(Display):
    """The progress of something in stages, on standard error; also the callback that reports it."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = console(sys.stderr)
        self._quiet = quiet
        self._started: dict[str, float] = {}
        self.shown = self._bars = Progress(
            TextColumn("  {task.description:<18}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of a stage are done."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total)
            self._started[stage] = time.perf_counter()
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if done >= total and not self._quiet and not self._console.is_terminal:
            seconds = time.perf_counter() - self._started[stage]
            self._console.print(f"  {stage}: {done} of {total}, {seconds:.1f} s")


class Learning(Display):
    """The progress of learning, with the SQNR so far, on standard error; also its callback."""

    def __init__(self, quiet: bool = False) -> None:
        stream = console(sys.stderr)
        self.shown = self._bar = Progress(
            TextColumn("  learning"),
            BarColumn(bar_width=30),
            TextColumn("{task.completed} of at most {task.total}, {task.fields[sqnr]}"),
            TimeElapsedColumn(),
            console=stream,
            disable=quiet or not stream.is_terminal,
        )
        self._task = self._bar.add_task("learning", total=None, sqnr="")

    def __call__(self, done: int, limit: int, sqnr_db: float) -> None:
        """Show that ``done`` iterations are done, and the SQNR they reached."""
        self._bar.update(self._task, completed=done, total=limit, sqnr=f"{sqnr_db:.2f} dB")


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table; a column whose heading ends in ">" is aligned right."""
    result = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        result.add_column(column.removesuffix(">"), justify="right" if right else "left")
    return result


def plan_table(plan: Plan) -> Table:
    """Return a plan as a table: what is computed in int8, and why the rest is not."""
    timed = any(layer.ms is not None for layer in plan.layers)
    times = ["predicted ms>"] * timed
    result = table("layer", "input", "weight", "algorithm", "precision", *times, "reason")
    for layer in plan.layers:
        result.add_row(
            escape(layer.name),
            "x".join(map(str, layer.input_shape)),
            layer.kernel_text,
            layer.label,
            layer.precision or "",
            *[layer.ms_text] * timed,
            escape(_reason(layer)),
            style=None if layer.algorithm != "float" else "dim",
        )
    result.caption = "\n".join(plan.remarks()) or None
    return result


def _reason(layer: LayerPlan) -> str:
    """Return why; of a layer in int8, which is as it was configured, it goes without details."""
    if layer.algorithm != "float" or not layer.detail:
        return layer.reason.value
    return f"{layer.reason.value}: {layer.detail}"


def report_table(report: AccuracyReport) -> Table:
    """Return an accuracy report as a table, its worst layer highlighted."""
    from .report import decibel, milliseconds

    timed = any(layer.predicted_ms is not None for layer in report.layers)
    times = ["predicted ms>"] * timed
    result = table("layer", "algorithm", "local dB>", "accumulated dB>", *times, "")
    for layer in report.layers:
        worst = layer == report.worst
        result.add_row(
            escape(layer.name),
            layer.label,
            decibel(layer.local_db),
            decibel(layer.accumulated_db),
            *[milliseconds(layer.predicted_ms)] * timed,
            "worst" if worst else "",
            style="bold red" if worst else None,
        )
    result.add_section()
    for output in report.outputs:
        result.add_row(
            escape(output.name), "end to end", "", decibel(output.sqnr_db), *[""] * timed, ""
        )
    return result


def demo_table(found: Demonstration) -> Table:
    """Return what the demonstration found as a table: quality, and time against PyTorch."""
    result = table("", "PSNR dB>", "ms>", "times as fast>")
    result.title = f"{found.target}, {found.threads} threads, median of {found.runs} runs"
    result.add_row("noisy", f"{found.noisy_psnr_db:.2f}", "", "")
    base = found.variants[0].seconds
    for variant in found.variants:
        result.add_row(
            variant.name,
            f"{variant.psnr_db:.2f}",
            f"{1e3 * variant.seconds:.1f}",
            f"{base / variant.seconds:.2f}",
        )
    return result


def show_diagnosis(diagnosis: Diagnosis) -> None:
    """Print what ``doctor`` found."""
    out = console()
    facts = table("machine", "")
    for name, value in (
        ("CPU", f"{diagnosis.cpu} ({diagnosis.machine})"),
        ("operating system", diagnosis.operating_system),
        ("features", " ".join(diagnosis.features) or "none"),
        ("AMX", diagnosis.amx),
        ("CPUs", str(diagnosis.cpus)),
        ("threads", str(diagnosis.threads or "unknown")),
    ):
        facts.add_row(name, escape(value))
    out.print(facts)
    targets = table("target", "runs here", "")
    for target in diagnosis.targets:
        runs = "[green]yes[/]" if target.obstacle is None else "[yellow]no[/]"
        targets.add_row(target.name, runs, escape(target.obstacle or target.summary))
    out.print(targets)
    packages = table("package", "version", "")
    for package in diagnosis.packages:
        packages.add_row(package.name, package.version or "[yellow]not there[/]", package.purpose)
    out.print(packages)
    tools = table("program", "version", "")
    for tool in diagnosis.tools:
        tools.add_row(tool.name, escape(tool.version or "") or "[yellow]not there[/]", tool.purpose)
    out.print(tools)
    for problem in diagnosis.problems:
        out.print(f"[bold red]problem:[/] {escape(problem)}")
    if not diagnosis.problems:
        out.print("[green]Nothing is in the way.[/]")
