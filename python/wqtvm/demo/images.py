"""The photographs of the demonstration, from scikit-image, and the noise that is added to them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, MissingDependencyError

Image = NDArray[np.float32]
"""Float32 (3, H, W), 0 black and 1 white; noise may exceed these."""

IMAGES = ("astronaut", "coffee", "chelsea")
SIGMA = 25 / 255
SEED = 0


def photograph(name: str) -> Image:
    """Return a photograph.

    Raises
    ------
    ConfigError
        If it is none of ``IMAGES``.
    MissingDependencyError
        If scikit-image, which has them, is not installed.
    """
    if name not in IMAGES:
        raise ConfigError(f"image is {name!r}; give one of {', '.join(IMAGES)}")
    try:
        from skimage import data
    except ImportError as error:
        raise MissingDependencyError(
            "the photographs are in the package scikit-image, which is not installed; "
            "run `pip install scikit-image`"
        ) from error
    pixels: NDArray[np.uint8] = getattr(data, name)()
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)


def add_noise(image: Image, sigma: float = SIGMA, seed: int = SEED) -> Image:
    """Add white Gaussian noise of standard deviation ``sigma``, the same for the same seed."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, dtype=np.float32)
    return image + np.float32(sigma) * noise
