"""What pictures are worth: Inception's features, CLIP's cosine, and PSNR; models from files."""

from __future__ import annotations

import importlib
import importlib.util
import math
import pickle
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wqtvm.errors import ConfigError

from .frechet import Moments
from .networks.base import MissingPackageError
from .pipelines import PACKAGES

Pictures = list[Image.Image]
Inception = Callable[[Pictures], Tensor]  # features float32 (picture, feature)
Clip = Callable[[Pictures, list[str]], Tensor]  # cosine (picture,) of each with its text

_FIDELITY = "torch-fidelity==0.4.0"
_FID_FEATURES = "2048"  # the last average pooling


def load_inception(weights: Path, device: str) -> Inception:
    """Inception v3 as the Frechet Inception distance takes it, by torch-fidelity.

    Parameters
    ----------
    weights : pt_inception-2015-12-05-6726825d.pth, the state dict that pytorch-fid and
        torch-fidelity publish; torchvision's Inception is another network.

    Raises
    ------
    ConfigError
        If the file is not there or holds another network.
    MissingPackageError
        If torch-fidelity is not installed.
    """
    if not weights.is_file():
        raise ConfigError(f"inception {weights}: there is no such file")
    kind = _fidelity().FeatureExtractorInceptionV3
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity allows pickles
        network = kind("inception", [_FID_FEATURES], str(weights)).to(device)
    except (RuntimeError, ValueError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"inception {weights} is not the state dict of FID's Inception, "
            f"pt_inception-2015-12-05-6726825d.pth: {str(error).splitlines()[0]}"
        ) from error

    @torch.no_grad()
    def features(pictures: Pictures) -> Tensor:
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
        values: Tensor = network(pixels.permute(0, 3, 1, 2).to(device))[0]
        return values.cpu()

    return features


def load_clip(folder: Path, device: str) -> Clip:
    """CLIP by transformers.

    Raises
    ------
    ConfigError
        If the folder is not there or holds something else.
    MissingPackageError
        If transformers is not installed.
    """
    if not folder.is_dir():
        raise ConfigError(f"clip {folder}: there is no such folder")
    try:
        import transformers
    except ImportError as error:
        raise MissingPackageError(f"{error}; run: {PACKAGES}") from error
    transformers.utils.logging.set_verbosity_error()
    try:
        model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
        processor = transformers.CLIPProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"clip {folder} cannot be loaded: {error}") from error
    model = model.float().to(device).eval()
    longest = model.config.text_config.max_position_embeddings

    @torch.no_grad()
    def cosine(pictures: Pictures, texts: list[str]) -> Tensor:
        inputs = processor(
            text=texts, images=pictures, return_tensors="pt", padding=True, truncation=True,
            max_length=longest,
        ).to(device)  # fmt: skip
        outputs = model(**inputs)
        pairs = torch.cosine_similarity(outputs.image_embeds, outputs.text_embeds)
        return pairs.cpu()

    return cosine


def moments(batches: Iterable[Pictures], inception: Inception) -> Moments:
    """Mean and covariance of the features of pictures."""
    return Moments.of(torch.cat([inception(batch) for batch in batches]))


def clip_score(pairs: Iterable[tuple[Pictures, list[str]]], clip: Clip) -> float:
    """100 times the mean cosine, negative ones taken for 0: Hessel et al., arXiv 2104.08718.

    There with a factor of 2.5; tables of text-to-image models leave it out.
    """
    cosines = torch.cat([clip(pictures, texts) for pictures, texts in pairs])
    return 100 * float(cosines.double().clamp(min=0).mean())


def pooled_psnr_db(pairs: Iterable[tuple[Pictures, Pictures]]) -> float:
    """PSNR of 8-bit pictures, over all of their pixels; infinite if all are equal."""
    squares, count = 0, 0
    for exact, drawn in pairs:
        for first, second in zip(exact, drawn, strict=True):
            difference = np.asarray(first, np.int64) - np.asarray(second, np.int64)
            squares, count = squares + int(np.square(difference).sum()), count + difference.size
    return math.inf if squares == 0 else 10 * math.log10(255**2 * count / squares)


def _fidelity() -> object:
    """torch-fidelity's module with FID's Inception.

    The package itself imports torchvision, for networks that are not needed here; so the module is
    imported beside it.
    """
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        raise MissingPackageError(
            f"torch-fidelity is not installed; run: pip install --no-deps {_FIDELITY}"
        )
    sys.modules.setdefault("torch_fidelity", importlib.util.module_from_spec(spec))
    return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
