"""The ImageNet benchmark on a stand-in: random weights, a few generated images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.accuracy.imagenet import labelled_images, load_model, main
from benchmarks.accuracy.resnet import ResNet
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "val" / label).mkdir(parents=True)
        pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "val" / label / "image.png")
    torch.manual_seed(0)
    save_file(ResNet(18, 7).state_dict(), tmp_path / "resnet18.safetensors")
    return tmp_path


def test_the_parameters_are_those_of_the_paper() -> None:
    # As torchvision documents them.
    counts = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032}
    for depth, count in counts.items():
        assert sum(p.numel() for p in ResNet(depth).parameters()) == count


def test_float_and_a_variant(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, images = str(folder / "resnet18.safetensors"), str(folder / "val")
    common = ["--depth", "18", "--images", images]
    assert main([*common, "--weights", weights, "--variants", "F4-hadamard"]) == 0
    out = capsys.readouterr().out
    assert "2 images, 13 eligible convolutions" in out
    assert "| F4-hadamard | 0.250 |" in out
    assert main([*common, "--weights", "nothing"]) == 1
    assert "there is no such file" in capsys.readouterr().err


def test_weights_of_another_depth_and_missing_images_are_refused(folder: Path) -> None:
    from wqtvm.errors import ConfigError

    with pytest.raises(ConfigError, match="are not those of ResNet-34"):
        load_model(34, folder / "resnet18.safetensors")
    with pytest.raises(ConfigError, match="no sub-folders with images"):
        labelled_images(folder / "val" / "a", None, None)
    labels = folder / "labels.txt"
    labels.write_text("a/image.png 3\n")
    assert labelled_images(folder / "val", labels, None)[0][1] == 3
    labels.write_text("a/image.png 3\nb/nothing.png 1\n")
    with pytest.raises(ConfigError, match=r"nothing.png: there is no such image"):
        labelled_images(folder / "val", labels, None)
