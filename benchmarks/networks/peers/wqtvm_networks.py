"""The network by wqtvm, without data: it is given the shape of the input, and no picture."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

import wqtvm

from ...layers.peers import wqtvm_layers
from ...layers.peers.base import Setting, Variant
from ...layers.peers.wqtvm_layers import TARGETS, aligned
from .base import Problem

LOSS_DB = 0.1
CONFIGS = {
    **wqtvm_layers.CONFIGS,
    "wqtvm F(4,3) calibrated": wqtvm.WinogradConfig(tile=4, calibrate=True),
    "wqtvm F(4,3) g64 calibrated": wqtvm.WinogradConfig(tile=4, group_size=64, calibrate=True),
    "wqtvm auto": wqtvm.WinogradConfig(algorithm="auto", max_loss_db=LOSS_DB),
}


class Network:
    """float32 planes in and out; quantization is part of the run."""

    def __init__(self, problem: Problem, config: wqtvm.WinogradConfig, setting: Setting) -> None:
        self.x = aligned(problem.x.numpy())
        self.compiled = wqtvm.compile(
            problem.program,
            (torch.zeros_like(problem.x),),
            target=TARGETS[setting.isa],
            config=config,
        )
        wqtvm.set_num_threads(setting.threads)

    def run(self) -> None:
        """Compute the network once."""
        self.y = self.compiled(self.x)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        result: NDArray[np.float32] = self.y.numpy()
        return result


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Network:
    """Make a network ready, see ``Runner``."""
    return Network(problem, CONFIGS[variant.name], setting)
