"""Train the U-Net and the classifier, from Debian's dataset-fashion-mnist, with fixed seeds.

    python -m benchmarks.accuracy.fashion.train classifier
    python -m benchmarks.accuracy.fashion.train flow --steps 6000

Uses a GPU where there is one. A checkpoint is written every --every steps and taken up again, so
that an interrupted training goes on where it stopped; the weights (an exponential moving average,
as safetensors) and how they came about (JSON) are written beside it each time.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from .data import FOLDER, load
from .networks import Classifier, FlowUNet

HERE = Path(__file__).resolve().parent
_DECAY = 0.999  # of the moving average of the weights
_WARM_UP = 100  # steps until the learning rate is reached


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=sorted(NETWORKS), help="what to train")
    parser.add_argument("--steps", type=int, default=6000, help="gradient steps (6000)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (64)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (0.001)")
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints (250)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the weights")
    parser.add_argument("--data", type=Path, default=FOLDER, help=f"the data set ({FOLDER})")
    train(**vars(parser.parse_args()))


def flow_loss(network: nn.Module, images: Tensor, labels: Tensor, draw: torch.Generator) -> Tensor:
    """Squared error of the velocity on straight lines from noise to images.

    Source: Lipman et al., "Flow Matching for Generative Modeling", ICLR 2023, arXiv 2210.02747.
    """
    noise = torch.randn(images.shape, generator=draw).to(images.device)
    # Normal in the logit: most of the times in the middle, where the velocity is hard to tell.
    times = torch.randn(len(images), generator=draw).sigmoid().to(images.device)
    at = times[:, None, None, None]
    velocity = network((1 - at) * noise + at * images, times, labels)
    return functional.mse_loss(velocity, images - noise)


def classifier_loss(network: nn.Module, images: Tensor, labels: Tensor, _: object) -> Tensor:
    """Cross entropy of the labels."""
    return functional.cross_entropy(network(images), labels)


NETWORKS = {"flow": (FlowUNet, flow_loss), "classifier": (Classifier, classifier_loss)}


def train(
    network: str,
    steps: int,
    batch: int,
    rate: float,
    every: int,
    seed: int,
    output: Path,
    data: Path,
) -> None:
    """Train one network, printing the mean loss at each checkpoint."""
    kind, loss_of = NETWORKS[network]
    images, labels = load("train", data)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(seed)
    model = kind().to(device, memory_format=torch.channels_last)
    mean = {name: value.detach().clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-4)
    checkpoint = output / f"{network}.checkpoint"
    done, losses = 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        mean, done, losses = saved["mean"], int(saved["step"]), list(saved["losses"])
        print(f"going on from step {done}")
    started, first, recent = time.monotonic(), done, []
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(step, steps)
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)  # the same after a stop
        chosen = torch.randint(len(images), (batch,), generator=draw)
        flip = torch.rand(batch, generator=draw) < 0.5
        x = torch.where(flip[:, None, None, None], images[chosen].flip(3), images[chosen])
        loss = loss_of(model, x.to(device), labels[chosen].to(device), draw)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(loss.detach())
        _average(mean, model, min(_DECAY, (1 + step) / (10 + step)))
        if (step + 1) % every == 0 or step + 1 == steps:
            losses.append(float(torch.stack(recent).mean()))
            recent = []
            _save(output, network, mean, losses, locals())
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            state |= {"mean": mean, "step": step + 1, "losses": losses}
            unfinished = checkpoint.with_suffix(".unfinished")
            torch.save(state, unfinished)
            unfinished.replace(checkpoint)
            speed = (time.monotonic() - started) / (step + 1 - first)
            left = speed * (steps - step - 1) / 60
            print(
                f"step {step + 1}/{steps}  loss {losses[-1]:.4f}  {left:.0f} min left", flush=True
            )


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a warm-up, then a cosine to zero."""
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _average(mean: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in _named(model):
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - decay)
        else:
            mean[name].copy_(value)


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.state_dict().items()


def _save(
    output: Path, name: str, mean: dict[str, Tensor], losses: list[float], said: dict[str, object]
) -> None:
    tensors = {key: value.cpu().contiguous() for key, value in mean.items()}
    save_file(tensors, output / f"{name}.safetensors")
    record = {key: said[key] for key in ("steps", "batch", "rate", "seed", "every")}
    record |= {"steps done": int(said["step"]) + 1, "mean loss by checkpoint": losses}
    record |= {"torch": torch.__version__, "device": str(said["device"])}
    (output / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
