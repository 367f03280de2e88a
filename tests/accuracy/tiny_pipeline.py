"""Stand-ins for a diffusion pipeline, CLIP and COCO: random weights, made in a moment."""

from __future__ import annotations

import json
import string
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
)

IMAGES = 6
_LONGEST = 16  # tokens of a text
_TEXT = {
    "vocab_size": 2 * len(string.ascii_lowercase) + 2, "hidden_size": 16, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": _LONGEST,
    "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53,
}  # fmt: skip
_VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip


def save_pipeline(folder: Path) -> None:
    """Stable Diffusion 1.5 in small: pictures of 16 x 16, 19 eligible convolutions in the U-Net."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=1,
        block_out_channels=(16, 32), norm_num_groups=8, cross_attention_dim=16,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, sample_size=16,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**_TEXT)),
        tokenizer=tokenizer(folder),
        unet=unet,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def save_clip(folder: Path) -> None:
    """CLIP in small."""
    torch.manual_seed(1)
    config = CLIPConfig(text_config=_TEXT, vision_config=_VISION, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    CLIPProcessor(images, tokenizer(folder)).save_pretrained(folder)


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A tokenizer of letters, from the files of a vocabulary as CLIP's."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=_LONGEST)


def save_coco(captions: Path, images: Path) -> None:
    """Annotations as COCO's, two captions an image, and the images, of random pixels."""
    rng = np.random.default_rng(0)
    images.mkdir()
    names = [f"{number:012d}.jpg" for number in range(IMAGES)]
    for number, name in enumerate(names):
        pixels = rng.integers(0, 255, (20 + number, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / name)
    said = [
        {"id": 2 * number + which, "image_id": number, "caption": f"a {word}\n {letter}"}
        for number, letter in enumerate(string.ascii_lowercase[:IMAGES])
        for which, word in enumerate(("cat", "dog"))
    ]
    listed = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    captions.write_text(json.dumps({"images": listed, "annotations": said}))
