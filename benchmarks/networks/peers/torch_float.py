"""PyTorch as it is, in both memory layouts."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ...layers.peers.base import Setting, Variant
from .base import Problem

LAYOUTS = {
    "PyTorch float32": torch.contiguous_format,
    "PyTorch float32, channels last": torch.channels_last,
}


class Network:
    """Weights and input in one layout."""

    def __init__(self, problem: Problem, layout: torch.memory_format) -> None:
        self.module = problem.program.module().to(memory_format=layout)
        self.x = problem.x.contiguous(memory_format=layout)

    def run(self) -> None:
        """Compute the network once."""
        with torch.inference_mode():
            self.y = self.module(self.x)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        result: NDArray[np.float32] = self.y.numpy()
        return result


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    torch.set_num_threads(setting.threads)
    return Network(problem, LAYOUTS[variant.name])
