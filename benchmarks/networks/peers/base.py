"""What every competitor of the end-to-end race is given."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import ExportedProgram

from wqtvm.quantization import psnr_db

from ..cases import NETWORK
from ..graph import Graph, read

PEAK = 1.0  # of pictures


@dataclass(frozen=True)
class Problem:
    """A network and its data, from files that all workers share, see ``Case.write``."""

    folder: Path

    @cached_property
    def program(self) -> ExportedProgram:
        """The network."""
        return torch.export.load(self.folder / NETWORK)

    @cached_property
    def graph(self) -> Graph:
        """The network for those that do not take it from PyTorch."""
        return read(self.program)

    @cached_property
    def x(self) -> Tensor:
        """The input, float32 (1, 3, height, width)."""
        return torch.from_numpy(np.load(self.folder / "x.npy"))

    @cached_property
    def reference(self) -> NDArray[np.float32]:
        """The result of PyTorch in float32 (1, 3, height, width)."""
        value: NDArray[np.float32] = np.load(self.folder / "reference.npy", mmap_mode="r")
        return value

    @cached_property
    def truth(self) -> NDArray[np.float32] | None:
        """The picture that the result should be, where it is known."""
        path = self.folder / "truth.npy"
        return np.load(path, mmap_mode="r") if path.exists() else None

    def judge(self, output: NDArray[np.float32]) -> dict[str, float]:
        """Return a result's PSNR against float PyTorch; its true one, and how that has changed."""
        quality = {"psnr_db": psnr_db(self.reference, output, PEAK)}
        if self.truth is not None:
            true_db = psnr_db(self.truth, output, PEAK)
            quality["true_psnr_db"] = true_db
            quality["true_change_db"] = true_db - psnr_db(self.truth, self.reference, PEAK)
        return quality
