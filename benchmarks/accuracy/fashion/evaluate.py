"""Pictures from noise in several steps, float against quantized: Frechet distance and deviation.

    python -m benchmarks.accuracy.fashion.evaluate                    all variants, 5000 samples
    python -m benchmarks.accuracy.fashion.evaluate --samples 1000 --variants direct-tap F4
    python -m benchmarks.accuracy.fashion.evaluate --show             what is measured already

The flow network, compiled for this machine, draws --samples pictures of all ten classes in --steps
Euler steps, each variant from the same noise. Printed are the Frechet distance between the features
of these pictures and those of the 10000 test pictures (the smaller the better), the share of
pictures that the classifier takes for the class that was asked for, and the PSNR against float's
pictures.
Each variant is written to --results when it is done, and not measured again: stop with Ctrl-C when
you like. Variants are those of `python -m benchmarks.accuracy`, by the starts of their names.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import wqtvm
from wqtvm import WinogradConfig
from wqtvm.errors import WqtvmError
from wqtvm.quantization import psnr_db
from wqtvm.runtime.model import CompiledModel

from ..frechet import Moments, frechet_distance
from ..results import Results
from ..variants import chosen
from .data import EDGE, FOLDER, load
from .networks import CLASSES, Classifier, FlowUNet

HERE = Path(__file__).resolve().parent
RESULTS = Path("out/fashion.jsonl")
_BATCH = 50
_DEFAULT = (
    "direct-filter", "direct-tap", "F2-hadamard", "F4-hadamard", "F6-hadamard", "SFC4-hadamard",
    "SFC6-hadamard", "F4-full-standard-tile", "F4-full-correlated", "F4-full-learned",
    "F6-full-standard-tile", "F6-full-correlated", "F6-full-learned", "SFC6-full-correlated",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=5000, help="pictures a variant (5000)")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--variants", nargs="+", default=list(_DEFAULT), metavar="NAME")
    parser.add_argument("--weights", type=Path, default=HERE, help="folder of the weights")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"the data set ({FOLDER})")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"default: {RESULTS}")
    parser.add_argument("--show", action="store_true", help="only print what is measured")
    options = parser.parse_args()
    if options.samples % _BATCH or options.samples < 2 * CLASSES:
        parser.error(f"--samples is {options.samples}; give a multiple of {_BATCH}")
    setting = f"{options.samples} samples, {options.steps} steps, seed {options.seed}"
    results = Results(options.results)
    try:
        if not options.show:
            evaluate(options, setting, results)
    except KeyboardInterrupt:
        print("\nstopped; what was measured is kept", file=sys.stderr)
    except (WqtvmError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print_table(results, setting)
    return 0


def evaluate(options: argparse.Namespace, setting: str, results: Results) -> None:
    """Measure float, then each variant that is not measured yet."""
    model = _weights(FlowUNet(), options.weights / "flow.safetensors")
    classifier = _weights(Classifier(), options.weights / "classifier.safetensors")
    images, _ = load("t10k", options.data)
    truth = Moments.of(features(classifier, images))
    wanted = [v for v in chosen(list(options.variants)) if not results.has(setting, v.name)]
    if not wanted and results.has(setting, "float"):
        return
    exact = samples(compiled(model, WinogradConfig("float")), options, "float")
    if not results.has(setting, "float"):
        results.add(setting, "float", 1.0, judge(exact, exact, classifier, truth))
    for variant in wanted:
        drawn = samples(compiled(model, variant.config), options, variant.name)
        measured = judge(drawn, exact, classifier, truth)
        results.add(setting, variant.name, variant.multiplications, measured)
        print(f"{variant.name}: distance {measured['distance']:.3f}", file=sys.stderr)


def compiled(model: nn.Module, config: WinogradConfig) -> CompiledModel:
    """The network compiled for a batch of pictures."""
    x = torch.zeros((_BATCH, 1, EDGE, EDGE))
    time_of, label = torch.zeros(_BATCH), torch.zeros(_BATCH, dtype=torch.int64)
    return wqtvm.compile(model, (x, time_of, label), config=config)


def judge(drawn: Tensor, exact: Tensor, classifier: Classifier, truth: Moments) -> dict[str, Any]:
    """Compare pictures (image, 1, row, column) with the test pictures and with float's."""
    if not bool(torch.isfinite(drawn).all()):
        return {"distance": float("inf"), "right": 0.0, "psnr_db": float("-inf")}
    with torch.no_grad():
        guesses = torch.cat([classifier(batch).argmax(1) for batch in drawn.split(_BATCH)])
    return {
        "distance": frechet_distance(Moments.of(features(classifier, drawn)), truth),
        "right": float((guesses == _labels(len(drawn))).float().mean()),
        "psnr_db": psnr_db(exact.numpy(), drawn.numpy()),
    }


@torch.no_grad()
def samples(model: CompiledModel, options: argparse.Namespace, name: str) -> Tensor:
    """Draw pictures by Euler steps from noise at time 0 to time 1."""
    generator = torch.Generator().manual_seed(options.seed)
    noise = torch.randn((options.samples, 1, EDGE, EDGE), generator=generator)
    labels = _labels(options.samples)
    drawn, started = [], time.monotonic()
    for start in range(0, options.samples, _BATCH):
        x, label = noise[start : start + _BATCH], labels[start : start + _BATCH]
        for step in range(options.steps):
            at = torch.full((len(x),), step / options.steps)
            x = x + model(x, at, label) / options.steps
        drawn.append(x.clamp(-1, 1))
        done = start + len(x)
        left = (time.monotonic() - started) / done * (options.samples - done)
        print(f"\r{name} {done}/{options.samples}, {left:.0f} s left   ", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    return torch.cat(drawn)


@torch.no_grad()
def features(classifier: Classifier, images: Tensor) -> Tensor:
    """Features (image, 128) of pictures."""
    return torch.cat([classifier.features(batch) for batch in images.split(_BATCH)])


def print_table(results: Results, setting: str) -> None:
    """Print what is measured in a setting, in Markdown."""
    rows = [row for (name, _), row in results.rows.items() if name == setting]
    print(f"\n{setting}\n\n| variant | multiplications | Frechet distance | right | PSNR dB |")
    print("|---|---|---|---|---|")
    for row in rows:
        cells = (
            row["variant"], f"{row['multiplications']:.3f}", f"{row['distance']:.2f}",
            f"{100 * row['right']:.1f} %", f"{row['psnr_db']:.1f}",
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |")


def _labels(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def _weights(model: Any, path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; train it: python -m benchmarks.accuracy.fashion.train "
            f"{path.stem}"
        )
    model.load_state_dict(load_file(path))
    return model.eval().requires_grad_(False)


if __name__ == "__main__":
    sys.exit(main())
