"""The options that commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .config import (
    ACTIVATION_STEPS,
    ALGORITHMS,
    ATTENTION,
    IMAGES,
    MINIMIZE,
    NAMED_POINTS,
    OTHERS,
    PRECISIONS,
    SCALES,
    STEPS,
    WEIGHT_STEPS,
    WinogradConfig,
)

Command = TypeVar("Command", bound=Callable[..., Any])

_DEFAULT = WinogradConfig()


def common(command: Command) -> Command:
    """Add what every command has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show a traceback if something fails."),
        click.option("-q", "--quiet", is_flag=True, help="Print results and errors only."),
    ):
        command = option(command)
    return command


def network(command: Command) -> Command:
    """Add what says which network, for which machine, and how it is computed."""
    for option in reversed(
        (
            click.argument("factory", metavar="MODULE:FACTORY"),
            click.option(
                "--weights",
                type=click.Path(path_type=Path),
                help="Weights to load into the network, a safetensors file.",
            ),
            click.option(
                "--input",
                "inputs",
                multiple=True,
                required=True,
                metavar="INPUT",
                help="One input: a shape (1x3x64x64, 1x77:int64, 1x1x1x1=0.1), or an .npy or "
                "image file that has it. Repeat it for each input, in order.",
            ),
            click.option(
                "--target", default="wq", show_default=True, help='Machine; "wq" is this one.'
            ),
            click.option(
                "--algorithm", type=click.Choice(ALGORITHMS), default=_DEFAULT.algorithm,
                show_default=True, help="How eligible convolutions are computed; auto: "
                "each in the least time that keeps a budget.",
            ),
            click.option(
                "--tile", metavar="M|MxM", default=None,
                help="Outputs a tile edge, m of F(m, 3) and F(m, 5), or rows and columns, such as "
                "4x2; 4 or 6 for sfc. By default 4, and 2 for kernels of 5x5.",
            ),
            click.option(
                "--points", default=_DEFAULT.points, show_default=True,
                help=f"{', '.join(NAMED_POINTS)}, or finite points, such as 0,2/3,-2/3,3/2,-3/2.",
            ),
            click.option(
                "--precision", type=click.Choice(PRECISIONS), default=_DEFAULT.precision,
                show_default=True,
                help="Only the product in int8, or every stage; or with --algorithm direct and "
                "AMX or AVX-512 BF16 operands in bfloat16.",
            ),
            click.option(
                "--group-size", type=int, default=_DEFAULT.group_size, show_default=True,
                help="Channels that share a quantization step; 0 is all of them.",
            ),
            click.option(
                "--scales", default=_DEFAULT.scales, show_default=True,
                help=f"How the taps are levelled in precision full: {', '.join(SCALES)}, or a file "
                "that learn-scales wrote.",
            ),
            click.option(
                "--steps", type=click.Choice(STEPS), default=_DEFAULT.steps, show_default=True,
                help="What shares a step in precision full.",
            ),
            click.option(
                "--weight-steps", type=click.Choice(WEIGHT_STEPS), default=_DEFAULT.weight_steps,
                show_default=True, help="What shares a step of the weights.",
            ),
            click.option(
                "--activation-steps", type=click.Choice(ACTIVATION_STEPS),
                default=_DEFAULT.activation_steps, show_default=True,
                help="What shares a step of the activations of direct convolutions.",
            ),
            click.option(
                "--others", type=click.Choice(OTHERS), default=_DEFAULT.others, show_default=True,
                help="What becomes of eligible convolutions that winograd and sfc are not for: "
                "strided ones, 1x1.",
            ),
            click.option(
                "--images", type=click.Choice(IMAGES), default=_DEFAULT.images, show_default=True,
                help="What is stored between layers; float16 is infinite beyond 65504.",
            ),
            click.option(
                "--attention", type=click.Choice(ATTENTION), default=_DEFAULT.attention,
                show_default=True, help="Precision of attention's products; bfloat16 needs AMX.",
            ),
            click.option(
                "--calibrate/--no-calibrate", default=None,
                help="Balance channels and take off mean errors, by running the float network on "
                "the inputs, or on made-up ones; by default with --algorithm auto.",
            ),
            click.option(
                "--min-sqnr-db", type=float, default=None, metavar="DB",
                help="With --algorithm auto: the least SQNR of a layer by itself.",
            ),
            click.option(
                "--max-loss-db", type=float, default=None, metavar="DB",
                help="With --algorithm auto: how much PSNR against the truth the network may lose; "
                "0.1 if neither is given.",
            ),
            click.option(
                "--minimize", type=click.Choice(MINIMIZE), default=_DEFAULT.minimize,
                show_default=True,
                help="With --algorithm auto: what is least within the budget.",
            ),
            click.option(
                "--peaks", metavar="FILE", default=None,
                help="With --algorithm auto: the machine's peaks, by python -m benchmarks.peaks "
                "--json FILE; by default those of a typical one.",
            ),
            click.option(
                "--records", metavar="FILE", default=_DEFAULT.records, show_default=True,
                help="Tuned kernels: a database of wqtvm tune, shipped ones, or none.",
            ),
            click.option(
                "--include", multiple=True, metavar="PATTERN",
                help="Quantize only layers of such names, like 'body.*'; may be repeated.",
            ),
            click.option(
                "--exclude", multiple=True, metavar="PATTERN",
                help="Leave layers of such names in float; may be repeated.",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def configuration(options: dict[str, Any]) -> WinogradConfig:
    """Return what the options of ``network`` say.

    Raises
    ------
    ConfigError
        If a value is outside its choices.
    """
    points = options["points"]
    if points not in NAMED_POINTS:
        points = tuple(point.strip() for point in points.split(","))
    return WinogradConfig(
        algorithm=options["algorithm"],
        tile=_tile(options["tile"]),
        points=points,
        precision=options["precision"],
        group_size=options["group_size"],
        scales=options["scales"],
        steps=options["steps"],
        weight_steps=options["weight_steps"],
        activation_steps=options["activation_steps"],
        others=options["others"],
        images=options["images"],
        attention=options["attention"],
        calibrate=options["calibrate"],
        min_sqnr_db=options["min_sqnr_db"],
        max_loss_db=options["max_loss_db"],
        minimize=options["minimize"],
        peaks=options["peaks"],
        records=options["records"],
        include=options["include"] or _DEFAULT.include,
        exclude=options["exclude"],
    )


def _tile(text: str | None) -> Any:
    """What "4" or "4x2" says; other texts as they are, for the configuration to refuse."""
    if text is None:
        return None
    edges = text.split("x")
    if not all(edge.isdecimal() for edge in edges):
        return text
    numbers = tuple(map(int, edges))
    return numbers[0] if len(numbers) == 1 else numbers
