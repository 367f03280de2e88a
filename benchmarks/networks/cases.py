"""The networks of the race, each on one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wqtvm.demo import images
from wqtvm.demo.weights import pretrained

from ..accuracy.networks import network
from ..accuracy.networks.images import shrunk

PHOTOGRAPH = "astronaut"
FACTOR = 4  # of super-resolution
NETWORK = "network.pt2"


@dataclass(frozen=True)
class Case:
    """A trained network from one picture to one, and what it is given.

    Attributes
    ----------
    name : of the network.
    load : returns it, in evaluation mode.
    picture : returns the input, float32 (1, 3, height, width), and the picture that the output
        should be, or None.
    """

    name: str
    load: Callable[[], nn.Module]
    picture: Callable[[], tuple[Tensor, Tensor | None]]

    def write(self, folder: Path) -> None:
        """Write what all workers read: the network, its input, its result by PyTorch, the truth."""
        module = self.load().eval()
        x, truth = self.picture()
        torch.export.save(torch.export.export(module, (x,)), folder / NETWORK)
        with torch.inference_mode():
            values = {"x": x, "reference": module(x), "truth": truth}
        for name, value in values.items():
            path = folder / f"{name}.npy"
            path.unlink(missing_ok=True)  # a worker may still map the last network's
            if value is not None:
                np.save(path, value.contiguous().numpy())


class Denoiser(nn.Module):
    """FFDNet for one strength of noise, so that the picture is its one input."""

    def __init__(self, ffdnet: nn.Module, sigma: float) -> None:
        super().__init__()
        self.ffdnet = ffdnet
        self.register_buffer("sigma", torch.full((1, 1, 1, 1), sigma))

    def forward(self, image: Tensor) -> Tensor:
        """Denoise an image (N, 3, H, W)."""
        denoised: Tensor = self.ffdnet(image, self.sigma)
        return denoised


def cases(edge: int | None = None) -> tuple[Case, ...]:
    """All networks; ``edge`` crops their inputs, for trying the race out."""

    def noisy() -> tuple[Tensor, Tensor]:
        clean = images.photograph(PHOTOGRAPH)
        pictures = (images.add_noise(clean), clean)
        x, truth = (torch.from_numpy(each[:, :edge, :edge].copy())[None] for each in pictures)
        return x, truth

    def small() -> tuple[Tensor, Tensor]:
        crop = None if edge is None else FACTOR * edge
        truth = torch.from_numpy(images.photograph(PHOTOGRAPH)[:, :crop, :crop].copy())[None]
        return shrunk(truth, FACTOR), truth

    return (
        Case("FFDNet", lambda: Denoiser(pretrained(), images.SIGMA), noisy),
        Case("Real-ESRGAN compact", lambda: network("real_esrgan_compact").load(), small),
    )


def chosen(names: list[str], edge: int | None = None) -> list[Case]:
    """Return the networks whose names have one of these parts, or all.

    Raises
    ------
    ValueError
        If a part fits no name.
    """
    every = cases(edge)
    for name in names:
        if not any(name.lower() in each.name.lower() for each in every):
            known = ", ".join(each.name for each in every)
            raise ValueError(f"no network is like {name!r}; there are: {known}")
    return [
        each
        for each in every
        if not names or any(name.lower() in each.name.lower() for name in names)
    ]
