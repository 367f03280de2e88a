"""PyTorch's float convolutions through oneDNN, channels last, weights packed ahead.

This is what torch.compile makes of a frozen network; ``torch.nn.functional.conv2d`` packs them anew
at each call.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from .base import Problem, Setting, Variant

ONES = [1, 1]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Convolution:
    """Input, weights and output in one dtype."""

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        x, weight, bias = (
            torch.from_numpy(value.copy()).to(dtype)
            for value in (problem.x, problem.weight, problem.bias)
        )
        x = x.permute(0, 3, 1, 2)
        padding, stride = [problem.padding] * 2, [problem.stride] * 2
        packed = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, stride, ONES, 1, list(x.shape)
        )
        self.arguments = (x, packed, bias, padding, stride, ONES, 1, "none", [], "")

    def run(self) -> None:
        """Compute the layer once."""
        with torch.inference_mode():
            self.y = torch.ops.mkldnn._convolution_pointwise(*self.arguments)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        return self.y.permute(0, 2, 3, 1).float().numpy()


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    torch.set_num_threads(setting.threads)
    return Convolution(problem, DTYPES[variant.kind])
