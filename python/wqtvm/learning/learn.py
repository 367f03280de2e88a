"""Learn scales by gradient descent: SQNR of the emulated against the direct convolution, on noise.

Pan et al., "Data-Free Group-Wise Fully Quantized Winograd Convolution via Learnable Scales", CVPR
2025, arXiv 2412.19867: one set of scales for all layers, K = 2 layers drawn at random a step.

With steps of channels or along an axis only the product S_B S_G counts: every row of the first
input pass, every tap of V and, by default, every tap of U has steps of its own there. With a step
for a whole tile, S_B counts, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import LEARNED
from ..errors import ConfigError, NonFiniteError, NotEligibleError
from ..fastconv import BilinearAlgorithm, ScaleSet
from ..quantization.scheme import Scheme
from ..versions import ABSENT, version
from .emulation import Layer
from .learned import OPTIMIZERS, LearnedScales, Provenance
from .noise import Noise

Weights = Mapping[str, NDArray[np.floating]]
Progress = Callable[[int, int, float], None]
"""Called with the iterations done, their limit, and the best mean SQNR so far in dB."""

# Of the logarithm of a scale, a step. The gradient is some dB a neper, so that SGD moves scales by
# about a hundredth of their value a step at first; Adam moves each by its rate, whatever the
# gradient.
LEARNING_RATES = {"sgd": 0.01, "adam": 0.02}
_TILES = 32  # of noise that a layer sees in a step
_HELD_OUT_TILES = 64
_HELD_OUT_LAYERS = 12  # at most, evenly spaced
_HELD_OUT_SEED = 1 << 32  # added to the seed: not the noise of any step
_CHECK_EVERY = 10  # iterations
_PATIENCE = 3  # checks without gain until the learning rate falls
_FALLS = 3  # of the learning rate, by _FALL, after the last of which learning ends
_FALL = 0.3
_LEAST_GAIN_DB = 0.002
_RANDOM_LAYERS, _RANDOM_CHANNELS = 4, 128


def learn_scales(
    model_or_weights: nn.Module | Weights | None,
    algorithm: BilinearAlgorithm,
    *,
    noise: Noise = Noise(),  # noqa: B008  # frozen
    steps: str = "channel",
    group_size: int = 32,
    weight_steps: str = "tap",
    optimizer: str = "sgd",
    learning_rate: float | None = None,
    layers_per_iteration: int = 2,
    iterations: int = 1000,
    seed: int = 0,
    per_layer: bool = False,
    progress: Progress | None = None,
) -> LearnedScales:
    """Learn S_B and S_G of one algorithm for precision "full", shared by all layers.

    Starts from the closed form for such noise ("row-norm" or "correlated"), and ends by itself when
    the SQNR on held-out noise gains no more; the best scales are kept, also if it is interrupted
    (KeyboardInterrupt). The same arguments give the same bits on the same machine. It runs in one
    thread; that of FFDNet takes some ten seconds.

    Parameters
    ----------
    model_or_weights : a network, of which all plain convolutions with kernels of the algorithm's
        size are used; or weights by the layers' names, float (output channel, input channel, r, r);
        None for Gaussian weights.
    algorithm : any of fastconv.winograd or fastconv.sfc, for tiles that are square.
    noise : the inputs.
    steps, group_size, weight_steps : as in WinogradConfig.
    optimizer : "sgd" or "adam", of the scales' logarithms.
    learning_rate : of the optimizer; None for a fitting one.
    layers_per_iteration : layers drawn at random in an iteration, K in the paper.
    iterations : limit of gradient steps.
    seed : of the noise, the layers' order and Gaussian weights.
    per_layer : then go on for each layer, from the shared scales to a set of its own.
    progress : called with the iterations done, their limit, and the best mean SQNR so far in dB.

    Raises
    ------
    NotEligibleError
        If there is no convolution to learn from.
    NonFiniteError
        If a weight is NaN or infinite.
    ConfigError
        If a value is outside its choices.
    """
    if optimizer not in OPTIMIZERS:
        raise ConfigError(f"optimizer is {optimizer!r}; give one of {', '.join(OPTIMIZERS)}")
    for name, value in (
        ("layers_per_iteration", layers_per_iteration),
        ("iterations", iterations),
    ):
        if value < 1:
            raise ConfigError(f"{name} is {value}; give at least 1")
    rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
    if not 0 < rate < float("inf"):
        raise ConfigError(f"learning_rate is {rate}; give a positive number")
    start = noise.closed_form(algorithm)
    scheme = Scheme(algorithm, start, "full", group_size, steps, weight_steps)
    described, weights = _weights(model_or_weights, seed, algorithm.r)
    checked = _checked(weights, algorithm.r)
    layers = {name: Layer(weight, scheme) for name, weight in checked.items()}
    sets: dict[str, ScaleSet] = {}
    with _one_thread():
        runs = 1 + per_layer * len(layers)
        stages = _Stages(progress, iterations * runs)
        settings = (noise, algorithm.t, optimizer, rate, seed)
        learner = _Learner(list(layers.values()), start, *settings)
        before = learner.best.sqnr_db
        ended = learner.run(iterations, layers_per_iteration, stages.next(iterations))
        shared, after, count = learner.best.scales(), learner.best.sqnr_db, learner.iterations
        if per_layer and ended != "interrupted":
            gains = []
            for name, layer in layers.items():
                learner = _Learner([layer], shared, *settings)
                by_shared = learner.best.sqnr_db
                ended = learner.run(iterations, 1, stages.next(iterations))
                sets[name] = learner.best.scales()
                gains.append(learner.best.sqnr_db - by_shared)
                count += learner.iterations
                if ended == "interrupted":
                    break
            after += sum(gains) / len(layers)
    return LearnedScales(
        shared,
        Provenance(
            algorithm=algorithm.name,
            points=algorithm.points,
            precision="full",
            group_size=group_size,
            steps=steps,
            weight_steps=weight_steps,
            noise=noise.kind,
            rho=noise.rho if noise.kind == "correlated" else None,
            weights=described,
            start=start.name,
            optimizer=optimizer,
            learning_rate=rate,
            layers_per_iteration=layers_per_iteration,
            seed=seed,
            iterations=count,
            ended=ended,
            before_db=before,
            after_db=after,
            wqtvm=version("wqtvm") or ABSENT,
            torch=torch.__version__,
        ),
        sets,
    )


def eligible_weights(model: nn.Module, taps: int = 3) -> dict[str, NDArray[np.float32]]:
    """Weights of all taps x taps convolutions without stride, dilation or groups, by name.

    A layer whose weights are all zero teaches nothing, and is left out.
    """
    return {
        name: module.weight.detach().float().cpu().numpy()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (taps, taps)
        and module.stride == (1, 1)
        and module.dilation == (1, 1)
        and module.groups == 1
        and bool(module.weight.any())
    }


def random_weights(seed: int, taps: int = 3) -> dict[str, NDArray[np.float32]]:
    """Gaussian weights of a few layers, for scales that serve any network."""
    rng = np.random.default_rng(seed)
    shape = (_RANDOM_CHANNELS, _RANDOM_CHANNELS, taps, taps)
    return {
        f"random.{i}": rng.standard_normal(shape, dtype=np.float32) for i in range(_RANDOM_LAYERS)
    }


@dataclass(frozen=True)
class _Candidate:
    """Logarithms of scales, float64 (2, n), S_B's and S_G's; and their mean held-out SQNR."""

    logarithms: Tensor
    sqnr_db: float

    def scales(self) -> ScaleSet:
        s_b, s_g = self.logarithms.exp().tolist()
        return ScaleSet(LEARNED, tuple(s_b), tuple(s_g))


class _Stages:
    """Progress of several runs of learning, one after the other, as if they were one."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._before = progress, total, 0

    def next(self, iterations: int) -> Progress | None:
        """Progress of the next run, of at most so many iterations."""
        if self._progress is None:
            return None
        report, before = self._progress, self._before
        self._before += iterations
        return lambda done, _, best: report(before + done, self._total, best)


class _Learner:
    def __init__(
        self,
        layers: Sequence[Layer],
        start: ScaleSet,
        noise: Noise,
        edge: int,
        optimizer: str,
        rate: float,
        seed: int,
    ) -> None:
        self._layers, self._noise, self._edge = layers, noise, edge
        self._generator = torch.Generator().manual_seed(seed)
        held_out = torch.Generator().manual_seed(seed + _HELD_OUT_SEED)
        count = min(len(layers), _HELD_OUT_LAYERS)
        chosen = [layers[i * len(layers) // count] for i in range(count)]
        self._held_out = [
            (layer, noise.tiles(_HELD_OUT_TILES, edge, layer.channels, held_out))
            for layer in chosen
        ]
        scales = torch.tensor([start.s_b, start.s_g], dtype=torch.float64)
        self._logarithms = scales.log().requires_grad_()
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
        self._optimizer: torch.optim.Optimizer = kind([self._logarithms], lr=rate)
        self.iterations = 0
        self.best = self._candidate()

    def run(self, limit: int, layers_per_iteration: int, progress: Progress | None) -> str:
        """Learn until it gains no more, or ends otherwise; returns why it ended."""
        stale = falls = 0
        try:
            while self.iterations < limit:
                self._step(layers_per_iteration)
                self.iterations += 1
                if self.iterations % _CHECK_EVERY == 0 or self.iterations == limit:
                    stale = 0 if self._check() else stale + 1
                if progress is not None:
                    progress(self.iterations, limit, self.best.sqnr_db)
                if stale == _PATIENCE:
                    if falls == _FALLS:
                        return "converged"
                    stale, falls = 0, falls + 1
                    self._fall()
        except KeyboardInterrupt:
            return "interrupted"
        return "limit"

    def _step(self, count: int) -> None:
        order = torch.randperm(len(self._layers), generator=self._generator)
        layers = [self._layers[int(i)] for i in order[:count]]
        s_b, s_g = self._logarithms.exp()
        total = torch.zeros(())
        for layer in layers:
            d = self._noise.tiles(_TILES, self._edge, layer.channels, self._generator)
            total = total - layer.sqnr_db(d, s_b, s_g)
        self._optimizer.zero_grad()
        (total / len(layers)).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def _check(self) -> bool:
        """Keep the scales if they are the best so far; whether they gain enough to go on."""
        candidate = self._candidate()
        gain = candidate.sqnr_db - self.best.sqnr_db
        if gain > 0:
            self.best = candidate
        return gain > _LEAST_GAIN_DB

    def _fall(self) -> None:
        """Go back to the best scales, and on in smaller steps."""
        with torch.no_grad():
            self._logarithms.copy_(self.best.logarithms)
        for group in self._optimizer.param_groups:
            group["lr"] *= _FALL

    def _candidate(self) -> _Candidate:
        with torch.no_grad():
            s_b, s_g = self._logarithms.exp()
            values = [layer.sqnr_db(d, s_b, s_g).item() for layer, d in self._held_out]
            return _Candidate(self._logarithms.detach().clone(), sum(values) / len(values))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let PyTorch use one thread: the order of its sums, hence the bits, depends on their number.

    More are no faster, as the tensors are small.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _weights(
    model_or_weights: nn.Module | Weights | None, seed: int, taps: int
) -> tuple[str, Weights]:
    """What to call the weights, and the weights."""
    if model_or_weights is None:
        shape = f"{_RANDOM_CHANNELS} to {_RANDOM_CHANNELS} channels"
        return f"{_RANDOM_LAYERS} random layers, {shape}", random_weights(seed, taps)
    if isinstance(model_or_weights, nn.Module):
        kind = type(model_or_weights)
        found = eligible_weights(model_or_weights, taps)
        if not found:
            raise NotEligibleError(
                f"{kind.__name__} has no {taps}x{taps} convolution without stride, dilation or "
                "groups; learn on random weights (None, or --random) instead"
            )
        return f"{kind.__module__}.{kind.__qualname__}, {len(found)} layers", found
    if not model_or_weights:
        raise NotEligibleError("there are no weights; give at least one layer's")
    return f"{len(model_or_weights)} layers as given", model_or_weights


def _checked(weights: Weights, taps: int) -> dict[str, NDArray[np.floating]]:
    arrays = {name: np.asarray(weight) for name, weight in weights.items()}
    for name, weight in arrays.items():
        if weight.ndim != 4 or weight.shape[2:] != (taps, taps) or not weight.size:
            raise NotEligibleError(
                f"layer {name}: weight has shape {weight.shape}; "
                f"give (output channels, input channels, {taps}, {taps})"
            )
        if not np.isfinite(weight).all():
            raise NonFiniteError(
                f"layer {name}: a weight is not finite; repair the checkpoint or leave it out"
            )
        if not weight.any():
            raise NotEligibleError(f"layer {name}: all weights are zero; leave it out")
    return arrays
