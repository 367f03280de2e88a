"""COCO captions and the photographs that they describe, from the user's own copy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from wqtvm.errors import ConfigError


def read_captions(path: Path) -> dict[str, list[str]]:
    """Captions by file name of the photograph, in the order of the photographs' numbers.

    Raises
    ------
    ConfigError
        If the file is not there, is none of COCO's, or holds no caption.
    """
    if not path.is_file():
        raise ConfigError(
            f"captions {path}: there is no such file; give COCO's captions_val2014.json or "
            "captions_val2017.json"
        )
    try:
        content = json.loads(path.read_text())
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        found: dict[str, list[str]] = {names[number]: [] for number in sorted(names)}
        for annotation in content["annotations"]:
            found[names[annotation["image_id"]]].append(" ".join(annotation["caption"].split()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"captions {path} are not as COCO's, with images (id, file_name) and annotations "
            f"(image_id, caption): {type(error).__name__} {error}"
        ) from error
    described = {name: captions for name, captions in found.items() if captions}
    if not described:
        raise ConfigError(f"captions {path}: no image has a caption")
    return described


def draw_prompts(captions: dict[str, list[str]], samples: int, seed: int) -> list[str]:
    """One caption of each of so many photographs; of two numbers, the lesser's are the first.

    Raises
    ------
    ConfigError
        If there are fewer photographs.
    """
    if samples > len(captions):
        raise ConfigError(
            f"--samples is {samples}, but the captions are of {len(captions)} images; "
            f"give at most --samples {len(captions)}"
        )
    rng = np.random.default_rng(seed)
    order, choice = rng.permutation(len(captions)), rng.random(len(captions))
    texts = list(captions.values())
    return [texts[i][int(choice[i] * len(texts[i]))] for i in order[:samples]]


def reference_files(folder: Path, captions: dict[str, list[str]], least: int) -> list[Path]:
    """The photographs that are in the folder.

    Raises
    ------
    ConfigError
        If there are fewer than ``least``.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"images {folder}: there is no such folder; give COCO's val2014 or val2017"
        )
    files = [folder / name for name in captions]
    found = [file for file in files if file.is_file()]
    if len(found) < least:
        missing = next(file for file in files if not file.is_file())
        raise ConfigError(
            f"images {folder}: {len(found)} of the {len(files)} images that the captions describe "
            f"are there, too few for --samples {least} (there is no {missing.name}); unpack all, "
            f"or give at most --samples {len(found)}"
        )
    return found


def square(path: Path, edge: int) -> Image.Image:
    """A photograph of edge x edge pixels: its short edge resized (bicubic), the middle of it."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = edge / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - edge) // 2, (size[1] - edge) // 2
    return image.crop((left, top, left + edge, top + edge))
