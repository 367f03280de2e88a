"""The text-to-image benchmark on stand-ins: random weights, a few pictures of 16 x 16."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.accuracy import diffusion, picture_scores
from benchmarks.accuracy.coco import draw_prompts, read_captions, square
from benchmarks.accuracy.pipelines import RectifiedFlowScheduler, load_pipeline
from benchmarks.accuracy.results import Results
from PIL import Image

from wqtvm.errors import ConfigError

_INCEPTION = ("--inception", "inception.pth")
_WHY = "pip install -r benchmarks/accuracy/requirements-diffusion.txt"
pytest.importorskip("diffusers", reason=_WHY)
pytest.importorskip("transformers", reason=_WHY)

# Not imported to find out: the package imports torchvision, which is not needed here.
needs_fidelity = pytest.mark.skipif(
    importlib.util.find_spec("torch_fidelity") is None,
    reason=f"pip install --no-deps {picture_scores._FIDELITY}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from accuracy import tiny_pipeline

    found = tmp_path_factory.mktemp("diffusion")
    tiny_pipeline.save_pipeline(found / "pipeline")
    tiny_pipeline.save_clip(found / "clip")
    tiny_pipeline.save_coco(found / "captions.json", found / "val")
    (found / "inception.pth").write_bytes(b"no network; most tests have a stand-in")
    return found


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(weights: Path, device: str) -> picture_scores.Inception:
        def features(pictures: picture_scores.Pictures) -> torch.Tensor:
            pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).float()
            assert pixels.shape[1:] == (16, 16, 3)
            return pixels.unflatten(1, (2, 8)).mean((2, 3)).flatten(1)

        return features

    monkeypatch.setattr(diffusion, "load_inception", load)


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    common = ["--pipeline", folder / "pipeline", "--captions", folder / "captions.json",
              "--images", folder / "val", "--output", output, "--device", "cpu",
              "--samples", "4", "--steps", "2", "--batch", "2"]  # fmt: skip
    return [*map(str, common), *more]


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*"))}


@pytest.mark.usefixtures("inception")
def test_float_and_variants(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = ["--inception", str(folder / "inception.pth"), "--clip", str(folder / "clip")]
    names = ["F4-hadamard", "F6-full-standard-tile"]
    command = arguments(folder, tmp_path, *models, "--variants", *names)
    assert diffusion.main(command) == 0
    out = capsys.readouterr().out
    assert "19 eligible convolutions, 6 reference images, on cpu" in out
    assert "4 pictures, 2 steps, guidance 7.5, seed 0, inception.pth and 6 references, clip" in out
    assert "| variant | multiplications | FID | CLIP | PSNR dB |" in out
    rows = {name: row for (_, name), row in Results(tmp_path / "results.jsonl").rows.items()}
    assert list(rows) == ["float", *names]
    assert rows["float"]["psnr_db"] == math.inf
    assert rows["F4-hadamard"]["psnr_db"] > 30 > rows["F6-full-standard-tile"]["psnr_db"]
    for row in rows.values():
        assert row["fid"] > 0
        assert 0 <= row["clip"] <= 100
    assert list(pictures(tmp_path / "float")) == [f"{number:06d}.png" for number in range(4)]

    # Again: nothing is drawn nor measured; the table is the same.
    before = (tmp_path / "results.jsonl").read_bytes()
    assert diffusion.main(command) == 0
    assert (tmp_path / "results.jsonl").read_bytes() == before
    assert capsys.readouterr().out == out


def test_stopped_and_resumed_it_draws_the_same_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("--variants", "direct-tap")
    assert diffusion.main(arguments(folder, tmp_path / "once", *names)) == 0
    command = arguments(folder, tmp_path / "twice", *names)
    draw, calls = diffusion.Bench._pixels, []

    def interrupted(bench: diffusion.Bench, numbers: list[int]) -> np.ndarray:
        calls.append(numbers)
        if len(calls) == 4:  # float takes two batches, the variant is stopped in its second
            raise KeyboardInterrupt
        return draw(bench, numbers)

    monkeypatch.setattr(diffusion.Bench, "_pixels", interrupted)
    assert diffusion.main(command) == 130
    assert len(pictures(tmp_path / "twice" / "direct-tap")) == 2
    assert diffusion.main(command) == 0
    assert calls[-1] == [2, 3]
    for name in ("float", "direct-tap"):
        once, twice = (pictures(tmp_path / which / name) for which in ("once", "twice"))
        assert once == twice

    # More samples: the first pictures stay.
    assert diffusion.main(arguments(folder, tmp_path / "twice", *names, "--samples", "6")) == 0
    assert calls[-1] == [4, 5]


def test_pictures_of_another_setting_are_not_mixed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--variants", "direct-tap")
    assert diffusion.main(arguments(folder, tmp_path, *names)) == 0
    assert diffusion.main(arguments(folder, tmp_path, *names, "--guidance", "3")) == 1
    assert "guidance 7.5 and not 3.0; give another --output" in capsys.readouterr().err


def test_the_decoder_is_quantized_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("--variants", "F4-hadamard", "--vae")
    assert diffusion.main(arguments(folder, tmp_path, *names)) == 0
    assert "34 eligible convolutions" in capsys.readouterr().out


def test_instaflow_goes_along_the_velocity(folder: Path, tmp_path: Path) -> None:
    scheduler = RectifiedFlowScheduler()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [1000, 750, 500, 250]
    x, velocity = torch.ones(1, 2), torch.tensor([[4.0, -8.0]])
    for time in scheduler.timesteps:
        (x,) = scheduler.step(velocity, time, x)
    assert x.tolist() == [[5, -7]]

    # A folder that says what InstaFlow's says, and one step by hand.
    index = json.loads((folder / "pipeline" / "model_index.json").read_text())
    instaflow = tmp_path / "instaflow"
    instaflow.mkdir()
    for path in (folder / "pipeline").iterdir():
        (instaflow / path.name).symlink_to(path)
    (instaflow / "model_index.json").unlink()
    index["_class_name"] = "RectifiedFlowPipeline"
    (instaflow / "model_index.json").write_text(json.dumps(index))
    pipeline = load_pipeline(instaflow)
    assert isinstance(pipeline.scheduler, RectifiedFlowScheduler)
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    drawn = pipeline(
        prompt=["a cat"], generator=[torch.Generator().manual_seed(3)], num_inference_steps=1,
        guidance_scale=0, output_type="latent",
    ).images  # fmt: skip
    with torch.no_grad():
        text, _ = pipeline.encode_prompt(["a cat"], "cpu", 1, False)
        velocity = pipeline.unet(noise, 1000.0, encoder_hidden_states=text).sample
    torch.testing.assert_close(drawn, noise + velocity)


def test_what_is_no_number_is_drawn_black(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(bench: diffusion.Bench, numbers: list[int]) -> np.ndarray:
        return np.full((len(numbers), 16, 16, 3), np.nan, np.float32)

    monkeypatch.setattr(diffusion.Bench, "_pixels", broken)
    assert diffusion.main(arguments(folder, tmp_path, "--variants", "direct-tap")) == 0
    assert "direct-tap: 4 of 4 pictures held NaN, drawn black" in capsys.readouterr().err
    assert np.asarray(Image.open(tmp_path / "float" / "000000.png")).max() == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (("--pipeline", "nothing"), "pipeline nothing: there is no such folder"),
        (("--pipeline", "val"), "no model_index.json in it"),
        (("--captions", "nothing.json"), "there is no such file; give COCO's"),
        (("--captions", "clip/config.json"), "are not as COCO's"),
        (("--samples", "7"), "give at most --samples 6"),
        (("--samples", "1"), "give at least --samples 2"),
        (("--images", "nothing", *_INCEPTION), "images nothing: there is no such folder"),
        (
            ("--images", "few", *_INCEPTION),
            "1 of the 6 images that the captions describe are there",
        ),
        (("--inception", "nothing"), "inception nothing: there is no such file"),
        pytest.param(
            _INCEPTION,
            "inception.pth is not the state dict of FID's Inception",
            marks=needs_fidelity,
        ),
        (("--clip", "nothing"), "clip nothing: there is no such folder"),
        (("--clip", "val"), "clip val cannot be loaded"),
        (("--variants", "F9"), "variant is 'F9'"),
    ],
)
def test_errors_say_what_to_do(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changed: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    (folder / "few").mkdir(exist_ok=True)
    (folder / "few" / f"{0:012d}.jpg").write_bytes(b"")
    assert diffusion.main(arguments(folder, tmp_path, *changed)) == 1
    assert message in capsys.readouterr().err


def test_prompts_are_drawn_by_the_seed(folder: Path) -> None:
    captions = read_captions(folder / "captions.json")
    assert captions["000000000001.jpg"] == ["a cat b", "a dog b"]
    assert draw_prompts(captions, 3, 0) == draw_prompts(captions, 6, 0)[:3]
    assert draw_prompts(captions, 6, 0) != draw_prompts(captions, 6, 1)
    letters = {prompt[-1] for prompt in draw_prompts(captions, 6, 0)}
    assert letters == set("abcdef")


def test_a_photograph_is_made_a_square(tmp_path: Path) -> None:
    pixels = np.zeros((20, 50, 3), np.uint8)
    pixels[:, 15:35] = 255  # the middle
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    assert np.asarray(square(tmp_path / "photograph.png", 20)).shape == (20, 20, 3)
    assert np.asarray(square(tmp_path / "photograph.png", 20)).min() == 255


@needs_fidelity
def test_the_inception_of_the_frechet_distance_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(
        "torch_fidelity", reason=f"pip install --no-deps {picture_scores._FIDELITY}"
    )
    kind = picture_scores._fidelity().FeatureExtractorInceptionV3
    torch.manual_seed(0)
    with monkeypatch.context() as patched:  # the network without weights, to have its random ones
        patched.setattr(torch, "load", lambda *_, **__: {})
        patched.setattr(kind, "load_state_dict", lambda *_: None)
        random = kind("inception", ["2048"], "none")
    for convolution in random.modules():
        if isinstance(convolution, torch.nn.Conv2d):  # else the features vanish
            torch.nn.init.kaiming_normal_(convolution.weight)
    weights = tmp_path / "inception.pth"
    torch.save(random.state_dict(), weights)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    features = picture_scores.load_inception(weights, "cpu")([image, image])
    assert features.shape == (2, 2048)
    assert features.mean() > 0.01
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    torch.testing.assert_close(features[:1], random(pixels)[0])
    torch.save({"fc.weight": torch.zeros(3)}, weights)
    with pytest.raises(ConfigError, match="not the state dict of FID's Inception"):
        picture_scores.load_inception(weights, "cpu")


def test_scores_of_known_pictures() -> None:
    black = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    grey = Image.fromarray(np.full((4, 4, 3), 51, np.uint8))
    assert picture_scores.pooled_psnr_db([([black], [black])]) == math.inf
    expected = 10 * math.log10(2 * 25)  # an error of a fifth of the peak, in half of the pictures
    assert picture_scores.pooled_psnr_db([([black], [grey]), ([black], [black])]) == pytest.approx(
        expected
    )

    def clip(pictures: picture_scores.Pictures, texts: list[str]) -> torch.Tensor:
        return torch.tensor([0.5, -0.5])

    assert picture_scores.clip_score([([black, grey], ["a", "b"])], clip) == 25
