"""Read an ncnn network, a .param text and a .bin of fp16 or float32 weights, into PyTorch.

Format: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from wqtvm.errors import ArtefactCorruptError

from .base import conv2d
from .graph import GraphNetwork, Step

_MAGIC = "7767517"
_FP16 = 0x01306B47
_ARRAY_KEY = -23300  # an array parameter k is written as -(23300 + k)


class _Weights:
    """The .bin, read from its start to its end."""

    def __init__(self, path: Path) -> None:
        self.path, self.content, self.offset = path, path.read_bytes(), 0

    def take(self, count: int, layer: str, *, tagged: bool) -> Tensor:
        """The next weights, float32; only the first blob of a layer has a tag for its dtype."""
        dtype = np.dtype("<f4")
        if tagged:
            tag = int(self._array(np.dtype("<u4"), 1, layer)[0])
            if tag == _FP16:
                dtype = np.dtype("<f2")
            elif tag != 0:
                raise ArtefactCorruptError(
                    f"{self.path.name}: layer {layer}: weights have tag {tag:#x}; only fp16 and "
                    "float32 can be read"
                )
        values = torch.from_numpy(self._array(dtype, count, layer).astype(np.float32))
        self.offset = (self.offset + 3) // 4 * 4
        return values

    def _array(self, dtype: np.dtype, count: int, layer: str) -> np.ndarray:
        size = dtype.itemsize * count
        if self.offset + size > len(self.content):
            raise ArtefactCorruptError(
                f"{self.path.name}: ends in layer {layer}: {size} bytes are wanted at "
                f"{self.offset} of {len(self.content)}; fetch it again"
            )
        found = np.frombuffer(self.content, dtype, count, self.offset)
        self.offset += size
        return found


def read(param: Path, weights: Path) -> GraphNetwork:
    """Return the network; its layers keep their names.

    Raises
    ------
    ArtefactCorruptError
        If a file is truncated or of another format, or a layer is of a kind that is not known.
    """
    lines = param.read_text().split("\n")
    if lines[0].strip() != _MAGIC:
        raise ArtefactCorruptError(f"{param.name}: starts with {lines[0]!r}, not {_MAGIC}")
    blobs = _Weights(weights)
    steps: list[Step] = []
    inputs: list[str] = []
    used: set[str] = set()
    made: list[str] = []
    for line in filter(str.strip, lines[2:]):
        kind, name, count_in, count_out, *rest = line.split()
        taken, given = int(count_in), int(count_out)
        sources, results = rest[:taken], rest[taken : taken + given]
        options = _options(rest[taken + given :])
        if kind == "Input":
            inputs += results
            continue
        if kind == "Split":
            steps.append(Step(name, _repeat(given), tuple(sources), tuple(results)))
            used.update(sources)
            made += results
            continue
        if kind not in _LAYERS:
            raise ArtefactCorruptError(
                f"{param.name}: layer {name} is a {kind}; known are {', '.join(sorted(_LAYERS))}"
            )
        run = _LAYERS[kind](options, blobs, name)
        steps.append(Step(name, run, tuple(sources), tuple(results)))
        steps += _activation(options, name, results) if kind in _ACTIVATED else []
        used.update(sources)
        made += results
    if blobs.offset != len(blobs.content):
        raise ArtefactCorruptError(
            f"{weights.name}: {len(blobs.content) - blobs.offset} bytes are left over after the "
            "last layer; it does not belong to this .param"
        )
    network = GraphNetwork(steps, inputs, [name for name in made if name not in used])
    return network.eval()


def _repeat(count: int) -> Callable[[Tensor], Any]:
    return lambda x: (x,) * count if count > 1 else x


def _options(texts: list[str]) -> dict[int, Any]:
    options: dict[int, Any] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if int(key) <= _ARRAY_KEY:
            options[_ARRAY_KEY - int(key)] = [float(entry) for entry in value.split(",")[1:]]
        else:
            options[int(key)] = float(value) if "." in value or "e" in value else int(value)
    return options


def _activation(options: dict[int, Any], name: str, results: list[str]) -> list[Step]:
    kind, arguments = options.get(9, 0), options.get(10, [])
    if kind == 0:
        return []
    functions: dict[int, Callable[[Tensor], Tensor]] = {
        1: functional.relu,
        2: lambda x: functional.leaky_relu(x, arguments[0]),
        4: torch.sigmoid,
    }
    return [Step(f"{name}.activation", functions[kind], (results[0],), (results[0],))]


def _convolution(options: dict[int, Any], blobs: _Weights, name: str) -> nn.Module:
    outputs, edge, size = options[0], options[1], options[6]
    weight = blobs.take(size, name, tagged=True).reshape(outputs, -1, edge, edge)
    bias = blobs.take(outputs, name, tagged=False) if options.get(5) else None
    return conv2d(weight, bias, options.get(3, 1), options.get(4, 0))


def _deconvolution(options: dict[int, Any], blobs: _Weights, name: str) -> nn.Module:
    outputs, edge, size = options[0], options[1], options[6]
    weight = blobs.take(size, name, tagged=True).reshape(outputs, -1, edge, edge)
    bias = blobs.take(outputs, name, tagged=False) if options.get(5) else None
    layer = nn.ConvTranspose2d(
        weight.shape[1], outputs, edge, options.get(3, 1), options.get(4, 0), bias=bias is not None
    )
    with torch.no_grad():
        layer.weight.copy_(weight.transpose(0, 1))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
    return layer.requires_grad_(False)


def _inner_product(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    weight = blobs.take(options[2], name, tagged=True).reshape(options[0], -1)
    bias = blobs.take(options[0], name, tagged=False) if options.get(1) else None
    return lambda x: functional.linear(x.flatten(1), weight, bias)


def _prelu(options: dict[int, Any], blobs: _Weights, name: str) -> nn.Module:
    layer = nn.PReLU(options[0])
    with torch.no_grad():
        layer.weight.copy_(blobs.take(options[0], name, tagged=False))
    return layer.requires_grad_(False)


def _crop(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    left, top = options.get(0, 0), options.get(1, 0)
    return lambda x, like: x[..., top : top + like.shape[-2], left : left + like.shape[-1]]


def _eltwise(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    if options.get(0, 0) != 1:
        raise ArtefactCorruptError(f"layer {name}: Eltwise of kind {options.get(0, 0)}; only sums")
    first, second = options.get(1, [1.0, 1.0])
    return lambda a, b: first * a + second * b


def _interpolate(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    mode = {1: "nearest", 2: "bilinear"}[options[0]]
    scale = (float(options[1]), float(options[2]))
    return lambda x: functional.interpolate(x, scale_factor=scale, mode=mode)


def _shuffle(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    return lambda x: functional.pixel_shuffle(x, options[0])


def _add(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    if options.get(0, 0) != 0:
        raise ArtefactCorruptError(f"layer {name}: BinaryOp {options[0]}; only additions")
    return lambda a, b: a + b


def _pool(options: dict[int, Any], blobs: _Weights, name: str) -> Callable[..., Tensor]:
    if options.get(0) != 1 or options.get(4) != 1:
        raise ArtefactCorruptError(f"layer {name}: Pooling {options}; only global averages")
    return lambda x: x.mean((2, 3))


_LAYERS: dict[str, Callable[[dict[int, Any], _Weights, str], Callable[..., Any]]] = {
    "BinaryOp": _add,
    "Concat": lambda options, blobs, name: lambda *parts: torch.cat(parts, 1),
    "Convolution": _convolution,
    "Crop": _crop,
    "Deconvolution": _deconvolution,
    "Eltwise": _eltwise,
    "InnerProduct": _inner_product,
    "Interp": _interpolate,
    "PReLU": _prelu,
    "PixelShuffle": _shuffle,
    "Pooling": _pool,
    "Scale": lambda options, blobs, name: lambda x, scale: x * scale.reshape(*scale.shape, 1, 1),
}
_ACTIVATED = ("Convolution", "Deconvolution", "InnerProduct")
