"""Text-to-image pipelines of diffusers from a folder, and the Euler steps of InstaFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wqtvm.errors import ConfigError

from .networks.base import MissingPackageError

PACKAGES = "pip install -r benchmarks/accuracy/requirements-diffusion.txt"
# What InstaFlow's folders say they are. diffusers has no such class: they are Stable Diffusion's,
# sampled otherwise.
_RECTIFIED = ("RectifiedFlowPipeline", "InstaFlowPipeline")
_TIME = 1000.0  # of noise, as the U-Net's embedding takes it; that of the picture is 0


class RectifiedFlowScheduler:
    """Euler steps along a velocity from noise to picture, which is what InstaFlow's U-Net gives.

    Liu et al., "InstaFlow: One Step is Enough", ICLR 2024, arXiv 2309.06380. diffusers' own
    flow-matching scheduler has the velocity's sign the other way round.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self) -> None:
        self.timesteps = torch.empty(0)

    def set_timesteps(self, count: int, device: torch.device | str | None = None) -> None:
        """Take so many equal steps."""
        self.timesteps = _TIME * (1 - torch.arange(count, device=device) / count)

    def scale_model_input(self, sample: Tensor, _: Tensor) -> Tensor:
        """The U-Net takes the sample as it is."""
        return sample

    def step(
        self, velocity: Tensor, _: Tensor, sample: Tensor, return_dict: bool = True
    ) -> tuple[Tensor]:
        """Go one step on; the result is a tuple whatever ``return_dict`` says."""
        return (sample + velocity / len(self.timesteps),)


def load_pipeline(folder: Path, rectified_flow: bool = False) -> Any:
    """The pipeline in float32 on the CPU, without what blackens pictures that it objects to.

    Raises
    ------
    ConfigError
        If the folder is no pipeline, one that diffusers does not know, or one without a U-Net.
    MissingPackageError
        If diffusers or transformers is not installed.
    """
    index = _index(folder)
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise MissingPackageError(f"{error}; run: {PACKAGES}") from error
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.set_verbosity_error()
    kind = str(index["_class_name"])
    loader = diffusers.DiffusionPipeline
    if kind in _RECTIFIED:
        loader, rectified_flow = diffusers.StableDiffusionPipeline, True
    elif not hasattr(diffusers, kind):
        raise ConfigError(f"pipeline {folder} is a {kind}, which diffusers does not have")
    without = {name: None for name in ("safety_checker", "feature_extractor") if name in index}
    try:
        pipeline = loader.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, low_cpu_mem_usage=False,
            **without,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise ConfigError(f"pipeline {folder} cannot be loaded: {error}") from error
    if getattr(pipeline, "unet", None) is None:
        raise ConfigError(f"pipeline {folder} is a {kind}, which has no U-Net to quantize")
    if rectified_flow:
        pipeline.scheduler = RectifiedFlowScheduler()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _index(folder: Path) -> dict[str, Any]:
    path = folder / "model_index.json"
    if not folder.is_dir():
        raise ConfigError(f"pipeline {folder}: there is no such folder")
    if not path.is_file():
        raise ConfigError(
            f"pipeline {folder}: no model_index.json in it; give the folder of a diffusers pipeline"
        )
    try:
        index = json.loads(path.read_text())
        index["_class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no pipeline's: {type(error).__name__} {error}") from error
    return dict(index)
