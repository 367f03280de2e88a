"""Fashion-MNIST as Debian packages it: ``apt-get install dataset-fashion-mnist``."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path("/usr/share/datasets/fashion-mnist")
EDGE = 28
_MAGIC = {1: 2049, 3: 2051}  # by the number of axes, in the IDX format


def load(part: str, folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Return images, float32 (image, 1, 28, 28) in [-1, 1], and labels, int64 (image,).

    Parameters
    ----------
    part : "train" (60000 images) or "t10k" (10000).

    Raises
    ------
    FileNotFoundError
        If the package is not installed: names it.
    ValueError
        If a file is not what it should be.
    """
    images = _read(folder / f"{part}-images-idx3-ubyte.gz", 3)
    labels = _read(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    scaled = torch.from_numpy(images).float() / 127.5 - 1
    return scaled[:, None], torch.from_numpy(labels).long()


def _read(path: Path, axes: int) -> np.ndarray:
    plain = path.with_suffix("")
    if path.exists():
        content = gzip.decompress(path.read_bytes())
    elif plain.exists():
        content = plain.read_bytes()
    else:
        raise FileNotFoundError(
            f"{path} does not exist; install it: apt-get install dataset-fashion-mnist"
        )
    head = np.frombuffer(content, ">u4", count=1 + axes)
    shape = tuple(int(size) for size in head[1:])
    if head[0] != _MAGIC[axes] or len(content) != head.nbytes + int(np.prod(shape)):
        raise ValueError(f"{path} is no IDX file of {axes} axes, or truncated; install it again")
    return np.frombuffer(content, np.uint8, offset=head.nbytes).reshape(shape).copy()
