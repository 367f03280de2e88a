"""The demonstration: FFDNet on a noisy photograph, by PyTorch in float and by wqtvm in int8."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..build import Progress
from ..build import compile as compile_model
from ..config import WinogradConfig
from ..errors import MissingDependencyError
from ..quantization import psnr_db
from ..quantization.plan import algorithm_label
from ..runtime.model import CompiledModel
from ..runtime.threads import get_num_threads, set_num_threads
from .images import SIGMA, Image, add_noise, photograph
from .weights import pretrained

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

FLOAT = "PyTorch float32"
# The usual int8 convolution has one weight step for all taps of a filter, and group.
_DIRECT = {
    "direct int8, a step a filter": WinogradConfig(algorithm="direct", weight_steps="filter"),
    "direct int8, a step a tap": WinogradConfig(algorithm="direct"),
}
_LABEL_HEIGHT = 26  # pixels
_GAP = 8


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes
    ----------
    name : for people.
    result : what it made of the noisy image.
    psnr_db : against the image without noise, peak 1.
    seconds : median time of a run.
    """

    name: str
    result: Image
    psnr_db: float
    seconds: float


@dataclass(frozen=True)
class Demonstration:
    """What ``demonstrate`` found: images are float32 (3, H, W), 0 to 1.

    Attributes
    ----------
    clean, noisy : the photograph without and with noise.
    noisy_psnr_db : of the noisy image against the clean one, peak 1.
    variants : PyTorch first.
    threads, runs : of the timing.
    target : that wqtvm compiled for.
    """

    clean: Image
    noisy: Image
    noisy_psnr_db: float
    variants: tuple[Variant, ...]
    threads: int
    runs: int
    target: str


def demonstrate(
    image: str = "astronaut",
    config: WinogradConfig = WinogradConfig(),  # noqa: B008  # frozen
    *,
    threads: int | None = None,
    runs: int = 5,
    progress: Callable[[str], Progress] | None = None,
) -> Demonstration:
    """Denoise a photograph by PyTorch, by wqtvm as configured, and by direct int8 convolutions.

    Parameters
    ----------
    image : one of ``images.IMAGES``.
    config : of the compiled network.
    threads : of all of them; None for as many as compiled code uses anyway.
    runs : timed runs of each; they take turns, so that all see the same machine.
    progress : called with the name of each network that is compiled; returns its callback.

    Raises
    ------
    WqtvmError
        If the weights or photographs are not installed, or the configuration is wrong.
    """
    clean = photograph(image)
    noisy = add_noise(clean)
    network = pretrained()
    inputs = (torch.from_numpy(noisy)[None], torch.full((1, 1, 1, 1), SIGMA))
    configs = {label(config): config, **_DIRECT}
    # In channels-last order PyTorch is a quarter faster on a CPU; compare with its best.
    exact = pretrained().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    networks: dict[str, Callable[..., torch.Tensor]] = {FLOAT: exact}
    for name, chosen in configs.items():
        report = progress(name) if progress else None
        networks[name] = compile_model(network, inputs, config=chosen, progress=report)
    with same_threads(threads) as used, torch.inference_mode():
        results = {name: run(*inputs)[0].numpy() for name, run in networks.items()}
        seconds = time_in_turns({name: _call(run, inputs) for name, run in networks.items()}, runs)
    compiled = networks[label(config)]
    assert isinstance(compiled, CompiledModel)
    return Demonstration(
        clean=clean,
        noisy=noisy,
        noisy_psnr_db=psnr_db(clean, noisy, 1.0),
        variants=tuple(
            Variant(name, result, psnr_db(clean, result, 1.0), seconds[name])
            for name, result in results.items()
        ),
        threads=used,
        runs=runs,
        target=compiled.target.name,
    )


def label(config: WinogradConfig) -> str:
    """Return what tables call the network compiled with a configuration."""
    algorithm = algorithm_label(config.algorithm, config.tile_of(3))
    tiled = config.algorithm in ("winograd", "sfc")
    return f"wqtvm {algorithm} {config.precision}" if tiled else f"wqtvm {algorithm}"


@contextmanager
def same_threads(count: int | None) -> Iterator[int]:
    """Let PyTorch and compiled code use the same number of threads, and yield it.

    Raises
    ------
    ConfigError
        As ``set_num_threads``.
    """
    before, torch_before = get_num_threads(), torch.get_num_threads()
    used = count or before
    try:
        set_num_threads(used)
        torch.set_num_threads(used)
        yield used
    finally:
        set_num_threads(before)
        torch.set_num_threads(torch_before)


def time_in_turns(functions: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Return the median time of each function in seconds.

    They take turns, so that what else the machine does falls on all of them alike.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(runs):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


def draw(found: Demonstration) -> Picture:
    """Draw the noisy image, what the networks made of it, and the clean one, side by side.

    Raises
    ------
    MissingDependencyError
        If pillow is not installed.
    """
    try:
        from PIL import Image as Pillow
        from PIL import ImageDraw, ImageFont
    except ImportError as error:
        raise MissingDependencyError(
            "pictures take the package pillow, which is not installed; run `pip install pillow`"
        ) from error
    panels = [
        (f"noisy, {found.noisy_psnr_db:.2f} dB", found.noisy),
        *((f"{v.name}, {v.psnr_db:.2f} dB", v.result) for v in found.variants),
        ("without noise", found.clean),
    ]
    _, height, width = found.clean.shape
    size = (len(panels) * (width + _GAP) - _GAP, height + _LABEL_HEIGHT)
    canvas = Pillow.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=16)
    for i, (text, image) in enumerate(panels):
        left = i * (width + _GAP)
        pen.text((left + 4, 4), text, fill="black", font=font)
        pixels = np.rint(image.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        canvas.paste(Pillow.fromarray(pixels), (left, _LABEL_HEIGHT))
    return canvas


def save(found: Demonstration, path: Path) -> None:
    """Write the picture of ``draw`` to a file.

    Raises
    ------
    MissingDependencyError
        As ``draw``.
    """
    draw(found).save(path)


def _call(run: Callable[..., Any], inputs: tuple[torch.Tensor, ...]) -> Callable[[], Any]:
    return lambda: run(*inputs)
