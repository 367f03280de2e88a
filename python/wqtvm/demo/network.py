"""FFDNet, a convolutional denoiser that is told how strong the noise is.

K. Zhang, W. Zuo, L. Zhang, "FFDNet: Toward a Fast and Flexible Solution for CNN-Based Image
Denoising", IEEE Transactions on Image Processing 27 (2018), arXiv 1710.04026.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

COLOURS = 3
SHRINK = 2
CHANNELS = 96
CONVOLUTIONS = 12


class FFDNet(nn.Module):
    """The network for colour images: twelve 3x3 convolutions at half the resolution.

    Its layers are ``head``, ``body.0`` to ``body.9`` and ``tail``.
    """

    def __init__(self, channels: int = CHANNELS, convolutions: int = CONVOLUTIONS) -> None:
        super().__init__()
        packed = COLOURS * SHRINK**2
        self.head = nn.Conv2d(packed + 1, channels, 3, padding=1)
        self.body = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convolutions - 2)
        )
        self.tail = nn.Conv2d(channels, packed, 3, padding=1)

    def forward(self, image: Tensor, sigma: Tensor) -> Tensor:
        """Denoise images.

        Parameters
        ----------
        image : float32 (N, 3, H, W), 0 black and 1 white.
        sigma : float32 (N, 1, 1, 1), the noise's standard deviation on the same scale.

        Returns
        -------
        float32 (N, 3, H, W); not clipped to 0 to 1.
        """
        batch, _, height, width = image.shape
        padded = functional.pad(image, (0, -width % SHRINK, 0, -height % SHRINK), mode="replicate")
        x = functional.pixel_unshuffle(padded, SHRINK)
        noise_map = sigma.expand(batch, 1, x.shape[2], x.shape[3])
        x = functional.relu(self.head(torch.cat((x, noise_map), dim=1)))
        for convolution in self.body:
            x = functional.relu(convolution(x))
        x = functional.pixel_shuffle(self.tail(x), SHRINK)
        return x[:, :, :height, :width]
