"""The command ``wqtvm learn-scales``."""

from __future__ import annotations

from pathlib import Path

import click

from ..config import DEFAULT_TILES, NAMED_POINTS, STEPS, TILES, WinogradConfig
from ..errors import ConfigError
from ..fastconv import KERNELS
from ..options import common
from .learned import DEFAULT_RHO, NOISES, OPTIMIZERS, check_destination

_INTERRUPTED = 130
_ALGORITHMS = ("winograd", "sfc")

_EXAMPLES = """\b
Examples:
  wqtvm learn-scales nets.unet:UNet --weights unet.safetensors -o unet-f4.safetensors
  wqtvm learn-scales --random --tile 6 -o f6.safetensors
  wqtvm compile nets.unet:UNet --input 1x3x256x256 --precision full \\
        --scales unet-f4.safetensors --output unet.wq
"""


@click.command("learn-scales", epilog=_EXAMPLES)
@click.argument("factory", metavar="MODULE:FACTORY", required=False)
@click.option("--random", "use_random", is_flag=True, help="Learn on Gaussian weights instead.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights to load into the network, a safetensors file.",
)
@click.option(
    "--algorithm",
    type=click.Choice(_ALGORITHMS),
    default=_ALGORITHMS[0],
    show_default=True,
    help="The fast convolution.",
)
@click.option(
    "--tile",
    type=click.Choice([str(tile) for tile in TILES]),
    default=str(DEFAULT_TILES[3]),
    show_default=True,
    help="Outputs a tile edge, m of F(m, 3) or F(m, 5); 4 or 6 for sfc.",
)
@click.option(
    "--kernel",
    type=click.Choice([str(taps) for taps in KERNELS]),
    default=str(KERNELS[0]),
    show_default=True,
    help="Taps of the kernels' edge; one set of scales is for one size.",
)
@click.option(
    "--points",
    default=WinogradConfig.points,
    show_default=True,
    help=f"{', '.join(NAMED_POINTS)}, or finite points, such as 0,2/3,-2/3,3/2,-3/2.",
)
@click.option(
    "--noise", type=click.Choice(NOISES), default=NOISES[0], show_default=True, help="The inputs."
)
@click.option(
    "--rho",
    type=click.FloatRange(0, 1, max_open=True),
    default=DEFAULT_RHO,
    show_default=True,
    help="Correlation of neighbours, for correlated noise.",
)
@click.option(
    "--steps",
    type=click.Choice(STEPS),
    default=WinogradConfig.steps,
    show_default=True,
    help="What shares a quantization step.",
)
@click.option(
    "--group-size",
    type=int,
    default=WinogradConfig.group_size,
    show_default=True,
    help="Channels that share a quantization step; 0 is all of them.",
)
@click.option(
    "--optimizer", type=click.Choice(OPTIMIZERS), default=OPTIMIZERS[0], show_default=True
)
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Limit; it ends before if it gains no more.",
)
@click.option(
    "--per-layer",
    is_flag=True,
    help="Then learn a set for each layer, starting from the shared one.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of noise and Gaussian weights.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path),
    help="File to write, *.safetensors; a *.json beside it says how it was made.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the files if they are there.")
@common
def learn_scales_command(
    factory: str | None,
    use_random: bool,
    weights: Path | None,
    algorithm: str,
    tile: str,
    kernel: str,
    points: str,
    noise: str,
    rho: float,
    steps: str,
    group_size: int,
    optimizer: str,
    iterations: int,
    per_layer: bool,
    seed: int,
    output: Path,
    overwrite: bool,
    quiet: bool,
    debug: bool,
) -> None:
    """Learn the scales of one algorithm for precision full, on noise and a network's weights.

    One set serves all 3x3 convolutions of the network, or all 5x5, unless --per-layer asks for
    more; no images are needed. Ctrl-C ends it with the best scales so far. Judge the result by
    `wqtvm report` on real inputs.
    """
    check_destination(output, overwrite)
    if (factory is None) != use_random or (use_random and weights is not None):
        raise ConfigError("give either a network, MODULE:FACTORY, or --random without --weights")
    config = WinogradConfig(
        algorithm=algorithm,
        tile=int(tile),
        points=points if points in NAMED_POINTS else tuple(map(str.strip, points.split(","))),
        group_size=group_size,
    )
    from .. import console
    from ..factory import load_weights, make_model
    from ..fastconv import bilinear_algorithm
    from .learn import learn_scales
    from .noise import Noise

    fast = bilinear_algorithm(algorithm, int(tile), config.points, int(kernel))
    described = f"{fast.name} with points {', '.join(fast.points)}" if fast.points else fast.name
    model = None if factory is None else make_model(factory)
    if model is not None and weights is not None:
        load_weights(model, weights)
    inputs = Noise(noise, rho)
    console.say(
        f"Learning scales of {described} on {factory or 'random weights'} and {inputs} noise",
        quiet,
    )
    with console.Learning(quiet) as progress:
        found = learn_scales(
            model, fast, noise=inputs, steps=steps, group_size=group_size,
            optimizer=optimizer, iterations=iterations, seed=seed, per_layer=per_layer,
            progress=progress,
        )  # fmt: skip
    found.save(output, overwrite=overwrite)
    made = found.provenance
    if not quiet:
        console.console().print(
            f"SQNR {made.before_db:.2f} dB by scales {made.start!r}, {made.after_db:.2f} dB by "
            f"learned ones (on held-out noise; {made.iterations} iterations, {made.ended})"
        )
    console.say(f"Wrote {output} and {output.with_suffix('.json').name}", quiet)
    if made.ended == "interrupted":
        raise click.exceptions.Exit(_INTERRUPTED)
