"""The command ``wqtvm tune``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import common

if TYPE_CHECKING:
    from ..quantization.plan import LayerPlan, Plan

_CANDIDATE_SECONDS = 60.0  # as session.CANDIDATE_SECONDS, which takes seconds to import

_TUNE = """\b
Examples:
  wqtvm compile nets.unet:UNet --input 1x3x256x256 --output unet.wq
  wqtvm tune unet.wq --minutes 30
  wqtvm compile nets.unet:UNet --input 1x3x256x256 --output unet.wq \\
        --overwrite --records wqtvm-tuning.jsonl
Which algorithm is fastest is measured, too, for --algorithm auto:
  wqtvm tune unet.wq --trials 500 --alternatives 4
What is known:
  wqtvm tune --list
  wqtvm tune --prune
  wqtvm tune --export winners.jsonl
On a device, by TVM's RPC:
  python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190
  python -m tvm.exec.rpc_server --host 127.0.0.1 --tracker 127.0.0.1:9190 \\
        --key board
  wqtvm tune unet.wq --minutes 30 --tracker 127.0.0.1:9190 --device board
"""


@click.command("tune", epilog=_TUNE)
@click.argument("source", required=False, type=click.Path(path_type=Path), metavar="[NETWORK]")
@click.option(
    "--database", default="wqtvm-tuning.jsonl", show_default=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of JSON lines; what is there is used, new lines are added.",
)  # fmt: skip
@click.option("--minutes", type=float, help="How long to search.")
@click.option("--trials", type=click.IntRange(min=1), help="How many candidates to run.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all CPUs by default.")
@click.option("--seed", default=0, show_default=True, help="Of the search.")
@click.option("--target", help="Machine; that of the artefact, or this one, by default.")
@click.option(
    "--layers", multiple=True, metavar="PATTERN",
    help="Tune only layers of such names, like 'body.*'; may be repeated.",
)  # fmt: skip
@click.option(
    "--alternatives", default=0, show_default=True, type=click.IntRange(min=0), metavar="N",
    help="Besides each layer's own algorithm, the N others that are predicted to be fastest.",
)  # fmt: skip
@click.option(
    "--candidate-seconds", default=_CANDIDATE_SECONDS, show_default=True, type=float,
    help="End a candidate that runs longer.",
)  # fmt: skip
@click.option(
    "--records", metavar="FILE", default="shipped", show_default=True,
    help="What won on similar layers is run first: of a database, of those shipped, or none.",
)  # fmt: skip
@click.option("--tracker", metavar="HOST:PORT", help="TVM's RPC tracker, to run candidates there.")
@click.option("--device", metavar="KEY", help="The key of its servers.")
@click.option("--list", "listed", is_flag=True, help="Print the winners of the database.")
@click.option(
    "--prune", is_flag=True, help="Keep the last winner and the 32 fastest trials of each layer."
)
@click.option(
    "--export", "exported", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write the winners alone to a new file.",
)  # fmt: skip
@common
def tune_command(
    source: Path | None,
    database: Path,
    minutes: float | None,
    trials: int | None,
    threads: int | None,
    seed: int,
    target: str | None,
    layers: tuple[str, ...],
    alternatives: int,
    candidate_seconds: float,
    records: str,
    tracker: str | None,
    device: str | None,
    listed: bool,
    prune: bool,
    exported: Path | None,
    quiet: bool,
    debug: bool,
) -> None:
    """Search for the fastest kernels of a network's int8 layers.

    NETWORK is an artefact that `wqtvm compile` wrote, or a plan as JSON: neither takes the
    network's source, nor its weights. Images between layers are of its dtype. Stop with Ctrl-C when
    you like: the search ends, the best so far are raced against the default kernels, and the same
    command goes on where it was. Records are found by a layer's shape, algorithm and images, and by
    the number of threads.
    """
    from .. import console
    from . import keeping

    if listed or prune or exported:
        if source is not None:
            raise click.UsageError("--list, --prune and --export are about the database alone")
        if prune:
            console.say(keeping.prune(database), quiet)
        if exported:
            console.say(keeping.export(database, exported), quiet)
        if listed:
            console.console().print(keeping.listing(database))
        return
    if source is None:
        raise click.UsageError("name a network, or give --list, --prune or --export")
    if minutes is None and trials is None:
        raise click.UsageError("say how long it may take: --minutes, --trials, or both")
    if (tracker is None) != (device is None):
        raise click.UsageError("--tracker and --device go together")
    plan, record_name = _read(source)
    chosen = _chosen(plan, layers)
    from ..target import lookup
    from .alternatives import with_alternatives
    from .session import tune
    from .table import Standings, outcome_text, standings_table
    from .workers import Remote

    record = lookup(target or record_name or "wq")
    if alternatives:
        chosen = with_alternatives(chosen, record, threads, alternatives)
    remote = None
    if tracker is not None and device is not None:
        remote = Remote(tracker, device)
        _warn(tracker)
    known = " (known candidates are not run again)" if database.exists() else ""
    console.say(f"Tuning {source} for {record.name}, records in {database}{known}", quiet)
    with Standings(trials, minutes, quiet) as watch:
        outcome = tune(
            chosen,
            images=plan.images,
            target=record,
            database=database,
            trials=trials,
            minutes=minutes,
            threads=threads,
            seed=seed,
            remote=remote,
            candidate_seconds=candidate_seconds,
            records=records,
            watch=watch,
        )
    console.console().print(standings_table(outcome.standings))
    console.console().print(outcome_text(outcome), highlight=False)


def _read(source: Path) -> tuple[Plan, str | None]:
    """The plan of an artefact, and its target, or of a file."""
    from ..quantization.plan import Plan
    from ..runtime.artefact import read_manifest

    if source.is_file():
        return Plan.from_json(source.read_text(encoding="utf-8")), None
    manifest = read_manifest(source)
    return manifest.plan, manifest.target


def _chosen(plan: Plan, patterns: tuple[str, ...]) -> list[LayerPlan]:
    from ..transform.plan_convolutions import check_patterns, matches

    check_patterns([layer.name for layer in plan.layers], "layers", patterns)
    return [layer for layer in plan.layers if not patterns or matches(layer.name, patterns)]


def _warn(tracker: str) -> None:
    from ..console import say

    host = tracker.rpartition(":")[0]
    if host not in ("127.0.0.1", "localhost", "::1", "[::1]"):
        say(
            f"Warning: {host} is not this machine. TVM's RPC neither encrypts nor asks who calls: "
            "whoever reaches the tracker or a server can run what he likes there."
        )
