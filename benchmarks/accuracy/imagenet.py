"""Top-1 and top-5 of ResNets on your ImageNet validation images, float against quantized.

    python -m benchmarks.accuracy.imagenet --depth 18 --weights resnet18.safetensors --images val

Weights are a state dict with torchvision's names, as .safetensors or .pth. Images are a folder with
one sub-folder a class, sorted by name as in torchvision, or a folder of images and --labels, a text
file with a name and a class number a line. Preprocessed as torchvision does: the short edge resized
to 256, the middle 224 x 224, normalised. Variants are those of `python -m benchmarks.accuracy`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wqtvm.emulation import emulate_network
from wqtvm.errors import ConfigError, WqtvmError

from .measure import folded
from .networks.base import eligible_layers
from .resnet import DEPTHS, ResNet
from .variants import chosen

_DEFAULT = ("direct-tap", "F2-hadamard", "F4-hadamard", "F6-hadamard", "SFC6-hadamard",
            "F4-full-correlated", "F4-full-learned", "F6-full-learned")  # fmt: skip
_SUFFIXES = (".jpg", ".jpeg", ".png")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_RESIZED, _CROPPED = 256, 224


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, choices=sorted(DEPTHS), required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="a line an image: its name and its class")
    parser.add_argument("--count", type=int, help="only so many images, evenly spaced")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--variants", nargs="+", default=list(_DEFAULT), metavar="NAME")
    options = parser.parse_args(arguments)
    try:
        model = load_model(options.depth, options.weights)
        files = labelled_images(options.images, options.labels, options.count)
        run(model, files, options.batch, options.variants)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    except WqtvmError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def run(model: nn.Module, files: list[tuple[Path, int]], batch: int, names: list[str]) -> None:
    """Print a row for float and one for each variant."""
    layers = eligible_layers(model)
    print(f"{len(files)} images, {len(layers)} eligible convolutions\n")
    print("| variant | multiplications | top-1 | top-5 |\n|---|---|---|---|")
    networks = [("float", 1.0, None)]
    networks += [(v.name, v.multiplications, v.scheme) for v in chosen(names)]
    for name, share, scheme in networks:
        network = model if scheme is None else emulate_network(model, dict.fromkeys(layers, scheme))
        first, fifth = accuracy(network, files, batch, name)
        print(f"| {name} | {share:.3f} | {100 * first:.2f} % | {100 * fifth:.2f} % |", flush=True)


@torch.no_grad()
def accuracy(
    model: nn.Module, files: list[tuple[Path, int]], batch: int, name: str
) -> tuple[float, float]:
    """Shares of images whose class is the first, or among the first five, of the model's."""
    first = fifth = done = 0
    started = time.monotonic()
    for images, labels in batches(files, batch):
        ranked = model(images).topk(min(5, model.fc.out_features), 1).indices
        hits = ranked == labels[:, None]
        first, fifth, done = (
            first + int(hits[:, 0].sum()),
            fifth + int(hits.sum()),
            done + len(hits),
        )
        left = (time.monotonic() - started) / done * (len(files) - done)
        print(f"\r{name} {done}/{len(files)}, {left:.0f} s left ", end="", file=sys.stderr)
    print("\r", end="", file=sys.stderr)
    return first / done, fifth / done


def load_model(depth: int, weights: Path) -> nn.Module:
    """The network with the user's weights, batch normalisation folded.

    Raises
    ------
    ConfigError
        If the file is not there or its names or shapes are others.
    """
    if not weights.is_file():
        raise ConfigError(f"weights {weights}: there is no such file")
    if weights.suffix == ".safetensors":
        state = load_file(weights)
    else:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    classes = len(state["fc.bias"]) if "fc.bias" in state else 1000
    model = ResNet(depth, classes)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ConfigError(f"weights {weights} are not those of ResNet-{depth}: {error}") from error
    return folded(model.eval().requires_grad_(False))


def labelled_images(folder: Path, labels: Path | None, count: int | None) -> list[tuple[Path, int]]:
    """Files with their classes.

    Raises
    ------
    ConfigError
        If there are none, or the file of labels names one that is not there.
    """
    if labels is not None:
        found = []
        for number, line in enumerate(labels.read_text().splitlines(), 1):
            try:
                name, label = line.rsplit(maxsplit=1)
                found.append((folder / name, int(label)))
            except ValueError as error:
                raise ConfigError(
                    f"{labels}, line {number}: {line!r} is no name and class"
                ) from error
    else:
        classes = sorted(path for path in folder.glob("*") if path.is_dir())
        found = [
            (file, index)
            for index, path in enumerate(classes)
            for file in sorted(path.iterdir())
            if file.suffix.lower() in _SUFFIXES
        ]
    if not found:
        raise ConfigError(f"{folder}: no sub-folders with images; give them, or --labels")
    missing = next((file for file, _ in found if not file.exists()), None)
    if missing is not None:
        raise ConfigError(f"{missing}: there is no such image")
    if count is not None and count < len(found):
        found = [found[i * len(found) // count] for i in range(count)]
    return found


def batches(files: list[tuple[Path, int]], size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images float32 (image, 3, 224, 224), normalised, and classes int64 (image,)."""
    for start in range(0, len(files), size):
        part = files[start : start + size]
        yield torch.stack([read_image(f) for f, _ in part]), torch.tensor([n for _, n in part])


def read_image(path: Path) -> Tensor:
    """One image, float32 (3, 224, 224), as torchvision prepares it."""
    from PIL import Image

    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = _RESIZED / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - _CROPPED) // 2, (size[1] - _CROPPED) // 2
    image = image.crop((left, top, left + _CROPPED, top + _CROPPED))
    pixels = np.asarray(image, dtype=np.float32) / 255
    normal = (pixels - np.float32(_MEAN)) / np.float32(_DEVIATION)
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1)))


if __name__ == "__main__":
    sys.exit(main())
