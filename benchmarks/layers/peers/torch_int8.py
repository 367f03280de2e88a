"""PyTorch's int8 convolution through oneDNN, as the compiled PT2E path calls it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Problem, Setting, Variant

ONES = [1, 1]


class Convolution:
    """uint8 in, and uint8 or float32 out, channels last, the weights packed by oneDNN."""

    def __init__(self, problem: Problem, gives: str) -> None:
        q = self.quantized = problem.quantized
        self.x = torch.from_numpy(q.x).permute(0, 3, 1, 2)
        steps = torch.from_numpy(q.weight_steps)
        geometry = ([problem.stride] * 2, [problem.padding] * 2, ONES)
        packed = torch.ops.onednn.qconv_prepack(
            torch.from_numpy(q.weight), steps, q.x_step, 0, *geometry, 1, list(self.x.shape)
        )
        self.in_float = gives == "f32"
        out = (1.0, 0, torch.float32) if self.in_float else (q.y_step, q.y_zero, torch.uint8)
        zeros = torch.zeros(len(steps), dtype=torch.int64)
        bias = torch.from_numpy(problem.bias.copy())
        weights = (packed, steps, zeros, bias, *geometry, 1)
        self.arguments = (self.x, q.x_step, 0, *weights, *out, "none", [], "")

    def run(self) -> None:
        """Compute the layer once."""
        with torch.inference_mode():
            self.y = torch.ops.onednn.qconv2d_pointwise(*self.arguments)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        y = self.y.permute(0, 2, 3, 1).numpy()
        return y if self.in_float else self.quantized.dequantize(y)


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    torch.set_num_threads(setting.threads)
    return Convolution(problem, variant.gives)
