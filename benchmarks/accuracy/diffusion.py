r"""Pictures from captions by your text-to-image pipeline, float against quantized: FID, CLIP, PSNR.

The paper's table: InstaFlow, a step from noise, 5000 captions of COCO 2017:

    python -m benchmarks.accuracy.diffusion --pipeline instaflow_0_9B_from_sd_1_5 \
        --captions annotations/captions_val2017.json --images val2017 \
        --inception pt_inception-2015-12-05-6726825d.pth --clip clip-vit-large-patch14 \
        --samples 5000 --steps 1 --guidance 0 --output out/instaflow

Stable Diffusion 1.5, whose errors of a step go into the next; a first look at 200 pictures:

    python -m benchmarks.accuracy.diffusion --pipeline stable-diffusion-v1-5 ... \
        --samples 200 --steps 25 --guidance 7.5 --variants F4-hadamard --output out/sd15

    pip install -r benchmarks/accuracy/requirements-diffusion.txt
    pip install --no-deps torch-fidelity==0.4.0      for FID; torchvision is not needed

You bring the files; nothing is fetched.
  --pipeline   folder of a diffusers pipeline with a U-Net, as save_pretrained writes it. One that
               says RectifiedFlowPipeline is sampled as InstaFlow does, by Euler steps along the
               U-Net's velocity; --rectified-flow does so with any other.
  --captions   COCO's annotations of captions, .json: of as many photographs as there are --samples,
               drawn by --seed, one caption each is a prompt.
  --images     the photographs of these annotations. All that are there are FID's reference, their
               short edge resized to the pictures' and the middle taken; at least --samples.
  --inception  FID's Inception v3, pt_inception-2015-12-05-6726825d.pth, as pytorch-fid and
               torch-fidelity publish it. Without it no FID.
  --clip       folder of a CLIP as transformers takes it. Without it no CLIP score.

Each picture starts from noise of its own seed, the same for all variants. Variants are those of
`python -m benchmarks.accuracy`, by the starts of their names: all 3x3 convolutions of stride 1 in
the U-Net, with --vae also in the decoder of the pictures, are quantized at once, emulated in
PyTorch, on a GPU if there is one. Memory for Stable Diffusion 1.5, by its 522 million weights of
49 such convolutions: F(4,3) adds 8 GB in hadamard and 17 in full, F(6,3) 15 and 30.

Pictures are kept in --output, a folder a variant, and not drawn again; each row is written to
results.jsonl there when it is measured, and not measured again. Stop with Ctrl-C when you like.

FID compares only with an FID of as many pictures, prepared alike; its 2048 features want more
pictures than that.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from wqtvm.emulation import emulate_network
from wqtvm.errors import ConfigError, WqtvmError
from wqtvm.quantization.scheme import Scheme

from .coco import draw_prompts, read_captions, reference_files, square
from .frechet import Moments, frechet_distance
from .networks.base import eligible_layers
from .picture_scores import (
    Clip,
    Inception,
    Pictures,
    clip_score,
    load_clip,
    load_inception,
    moments,
    pooled_psnr_db,
)
from .pipelines import load_pipeline
from .results import Results
from .variants import chosen

_DEFAULT = ("direct-filter", "direct-tap", "F4-hadamard", "F4-full-correlated", "F4-full-learned",
            "F6-hadamard", "F6-full-standard-tile", "F6-full-learned", "SFC6-hadamard")  # fmt: skip
_SEEDS_APART = 1_000_003  # so that no two values of --seed share a picture's seed
_FEWEST = 2  # pictures of which there is a covariance
_SCORES = {"fid": "FID", "clip": "CLIP", "psnr_db": "PSNR dB"}
_LINE = 60  # characters


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        bench = prepare(options)
        for name, share, scheme in rows(options.variants):
            bench.measure(name, share, scheme)
    except KeyboardInterrupt:
        print("\nstopped; pictures and rows are kept, the same command goes on", file=sys.stderr)
        return 130
    except (WqtvmError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.OutOfMemoryError as error:
        print(f"error: {error}\ngive a smaller --batch, or --device cpu", file=sys.stderr)
        return 1
    bench.print_table()
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--pipeline", type=Path, required=True, metavar="FOLDER")
    add("--captions", type=Path, required=True, metavar="JSON")
    add("--images", type=Path, metavar="FOLDER", help="needed for FID")
    add("--inception", type=Path, metavar="FILE")
    add("--clip", type=Path, metavar="FOLDER")
    add("--output", type=Path, required=True, metavar="FOLDER")
    add("--samples", type=int, default=5000, help="pictures a variant (5000)")
    add("--steps", type=int, default=25, help="from noise to picture (25; InstaFlow: 1)")
    add("--guidance", type=float, default=7.5, help="of the prompt (7.5; InstaFlow: 0)")
    add("--variants", nargs="+", default=list(_DEFAULT), metavar="NAME", help="; ".join(_DEFAULT))
    add("--batch", type=int, default=4, help="pictures at a time (4)")
    add("--seed", type=int, default=0, help="of prompts and noise (0)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--vae", action="store_true", help="quantize the decoder of the pictures, too")
    add("--rectified-flow", action="store_true", help="sample as InstaFlow does")
    return found


def rows(names: list[str]) -> list[tuple[str, float, Scheme | None]]:
    """Name, multiplications and scheme: float first, it is what the others are compared with."""
    return [("float", 1.0, None)] + [(v.name, v.multiplications, v.scheme) for v in chosen(names)]


def prepare(options: argparse.Namespace) -> Bench:
    """Load what the options name; what is cheap to check comes first."""
    if min(options.samples, options.steps, options.batch) < 1 or options.samples < _FEWEST:
        raise ConfigError(
            f"--samples {options.samples} --steps {options.steps} --batch {options.batch}: give at "
            f"least --samples {_FEWEST}, --steps 1 and --batch 1"
        )
    if options.inception is not None and options.images is None:
        raise ConfigError("--inception is given, but no --images: FID needs photographs")
    rows(options.variants)  # unknown names
    captions = read_captions(options.captions)
    prompts = draw_prompts(captions, options.samples, options.seed)
    references = []
    if options.inception is not None:
        references = reference_files(options.images, captions, options.samples)
    device = options.device
    inception = None if options.inception is None else load_inception(options.inception, device)
    clip = None if options.clip is None else load_clip(options.clip, device)
    pipeline = load_pipeline(options.pipeline, options.rectified_flow)
    claim(options, type(pipeline.scheduler).__name__)
    bench = Bench(options, pipeline.to(device), prompts, references, inception, clip)
    layers = sum(len(eligible_layers(part)) for part in bench.parts.values())
    print(f"{layers} eligible convolutions, {len(references)} reference images, on {device}")
    return bench


def claim(options: argparse.Namespace, scheduler: str) -> None:
    """Write to the output folder what its pictures depend on.

    Raises
    ------
    ConfigError
        If it holds pictures that depend on something else.
    """
    wanted = {
        "pipeline": str(options.pipeline.resolve()),
        "captions": hashlib.sha256(options.captions.read_bytes()).hexdigest(),
        "scheduler": scheduler,
        "steps": options.steps,
        "guidance": options.guidance,
        "seed": options.seed,
        "vae": options.vae,
    }
    path = options.output / "settings.json"
    if path.exists():
        kept = json.loads(path.read_text())
        for key, value in wanted.items():
            if kept.get(key) != value:
                raise ConfigError(
                    f"{options.output} holds pictures of another setting, {key} {kept.get(key)!r} "
                    f"and not {value!r}; give another --output"
                )
        return
    options.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(wanted, indent=2) + "\n")


@dataclass(frozen=True)
class Bench:
    """The pipeline, what it draws, and what judges it; a folder of pictures for each variant."""

    options: argparse.Namespace
    pipeline: Any
    prompts: list[str]
    references: list[Path]
    inception: Inception | None
    clip: Clip | None

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The networks whose convolutions are quantized."""
        found = {"unet": self.pipeline.unet}
        return found | {"decoder": self.pipeline.vae.decoder} if self.options.vae else found

    @property
    def setting(self) -> str:
        """What a row depends on, for the table and for finding it again."""
        options = self.options
        found = f"{len(self.prompts)} pictures, {options.steps} steps"
        found += f", guidance {options.guidance:g}, seed {options.seed}"
        if options.inception is not None:
            found += f", {options.inception.name} and {len(self.references)} references"
        return found if options.clip is None else f"{found}, {options.clip.resolve().name}"

    @property
    def results(self) -> Results:
        """The rows measured so far."""
        return Results(self.options.output / "results.jsonl")

    def measure(self, name: str, share: float, scheme: Scheme | None) -> None:
        """Draw a variant's pictures that are not there yet, and judge them if they are not."""
        self.draw(name, scheme)
        if self.results.has(self.setting, name):
            return
        row: dict[str, float | None] = dict.fromkeys(_SCORES)
        beside = zip(self._batches("float"), self._batches(name), strict=True)
        row["psnr_db"] = pooled_psnr_db(beside)
        if self.inception is not None:
            batches = self._batches(name, Progress(f"{name}, Inception", len(self.prompts)))
            row["fid"] = frechet_distance(moments(batches, self.inception), self.reference)
        if self.clip is not None:
            row["clip"] = clip_score(self._with_prompts(name), self.clip)
        self.results.add(self.setting, name, share, row)
        print(f"{name}: {_cells(row)}", file=sys.stderr)

    @cached_property
    def reference(self) -> Moments:
        """Of the features of the photographs."""
        assert self.inception is not None
        return moments(self._reference_batches(), self.inception)

    def draw(self, name: str, scheme: Scheme | None) -> None:
        """Draw the pictures that are not there; what is not a number is black."""
        missing = [i for i in range(len(self.prompts)) if not self.file(name, i).exists()]
        if not missing:
            return
        self.file(name, 0).parent.mkdir(parents=True, exist_ok=True)
        broken = 0
        with self._quantized(name, scheme):
            progress = Progress(f"{name}, pictures", len(missing))
            for start in range(0, len(missing), self.options.batch):
                numbers = missing[start : start + self.options.batch]
                pixels = self._pixels(numbers)
                broken += sum(not np.isfinite(picture).all() for picture in pixels)
                for number, picture in zip(numbers, np.nan_to_num(pixels), strict=True):
                    _save(self.file(name, number), picture)
                progress.add(len(numbers))
        if broken:
            print(
                f"{name}: {broken} of {len(missing)} pictures held NaN, drawn black",
                file=sys.stderr,
            )

    def file(self, name: str, number: int) -> Path:
        """The picture of a prompt."""
        return Path(self.options.output) / name / f"{number:06d}.png"

    def print_table(self) -> None:
        """Print the rows of this setting, in Markdown."""
        print(f"\n{self.setting}\n\n| variant | multiplications | {' | '.join(_SCORES.values())} |")
        print("|---" * (2 + len(_SCORES)) + "|")
        for (setting, variant), row in self.results.rows.items():
            if setting == self.setting:
                cells = [f"{row['multiplications']:.3f}"]
                cells += ["" if row[key] is None else f"{row[key]:.2f}" for key in _SCORES]
                print(f"| {variant} | {' | '.join(cells)} |")

    @contextlib.contextmanager
    def _quantized(self, name: str, scheme: Scheme | None) -> Iterator[None]:
        """The pipeline with its eligible convolutions emulated, for as long as it takes."""
        if scheme is None:
            yield
            return
        exact = self.parts
        print(f"\r{name}: quantizing the weights ", end="", file=sys.stderr)
        try:
            for part, network in exact.items():
                schemes = dict.fromkeys(eligible_layers(network), scheme)
                self._put(part, emulate_network(network, schemes))
            yield
        finally:
            for part, network in exact.items():
                self._put(part, network)

    def _put(self, part: str, network: nn.Module) -> None:
        setattr(self.pipeline if part == "unet" else self.pipeline.vae, part, network)

    def _pixels(self, numbers: list[int]) -> np.ndarray:
        """Draw pictures, float32 (picture, row, column, 3), 0 black and 1 white."""
        seeds = [self.options.seed * _SEEDS_APART + number for number in numbers]
        drawn = self.pipeline(
            prompt=[self.prompts[number] for number in numbers],
            # Of the CPU, so that noise is the same on every device.
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=self.options.steps,
            guidance_scale=self.options.guidance,
            output_type="np",
        )
        return np.asarray(drawn.images, dtype=np.float32)

    def _batches(self, name: str, progress: Progress | None = None) -> Iterator[Pictures]:
        for start in range(0, len(self.prompts), self.options.batch):
            numbers = range(start, min(start + self.options.batch, len(self.prompts)))
            yield [_open(self.file(name, number)) for number in numbers]
            if progress is not None:
                progress.add(len(numbers))

    def _with_prompts(self, name: str) -> Iterator[tuple[Pictures, list[str]]]:
        at, progress = 0, Progress(f"{name}, CLIP", len(self.prompts))
        for pictures in self._batches(name, progress):
            yield pictures, self.prompts[at : at + len(pictures)]
            at += len(pictures)

    def _reference_batches(self) -> Iterator[Pictures]:
        edge = _open(self.file("float", 0)).width
        progress = Progress("reference, Inception", len(self.references))
        for start in range(0, len(self.references), self.options.batch):
            files = self.references[start : start + self.options.batch]
            yield [square(file, edge) for file in files]
            progress.add(len(files))


class Progress:
    """A line on stderr that says how much is done and how long the rest takes."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total = what, total
        self._done, self._started = 0, time.monotonic()

    def add(self, count: int) -> None:
        """So many more are done; after the last, the line goes."""
        self._done += count
        left = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        text = f"{self._what} {self._done}/{self._total}, {duration(left)} left"
        end = f"\r{' ' * _LINE}\r" if self._done == self._total else ""
        print(f"\r{text:{_LINE}}{end}", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in words of at most two units."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _open(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.convert("RGB")


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write a picture (row, column, 3) of 0 to 1, whole or not at all."""
    image = Image.fromarray((255 * pixels.clip(0, 1)).round().astype(np.uint8))
    unfinished = path.with_suffix(".unfinished")
    image.save(unfinished, format="png")
    unfinished.replace(path)


def _cells(row: dict[str, float | None]) -> str:
    found = ((title, row[key]) for key, title in _SCORES.items())
    return ", ".join(f"{title} {value:.2f}" for title, value in found if value is not None)


if __name__ == "__main__":
    sys.exit(main())
