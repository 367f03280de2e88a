"""Choose an algorithm for each layer, so that the network keeps an accuracy budget.

1. The float network runs on this machine, on the user's inputs or on made-up ones, and shows what
   each convolution takes: features of the network itself tell far more than noise does.
2. Each layer's candidates are emulated on a part of that, for their own errors.
3. One candidate's real error of each layer, alone, is added to what it gives, and the network's
   output shows how much of it arrives; other candidates' arrive in proportion.
4. The cheapest choice is made whose errors, added up, keep the budget.
5. All chosen errors are added at once. They may support or cancel each other, so that the sum in 4
   is scaled, by bisection, until what arrives of all at once just keeps the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tvm import ir

from ..config import WinogradConfig
from ..emulation import EmulatedConvolution
from ..errors import ConfigError, InputMismatchError, NonFiniteError
from ..quantization.plan import LayerPlan, Plan, Reason
from ..runtime.specs import is_torch, random_inputs
from ..tensor_spec import TensorSpec
from ..transform.plan_convolutions import plan_convolutions
from .allocate import Option, allocate
from .candidates import Candidate, candidates
from .float_network import F32, FloatNetwork, weights_of

Progress = Callable[[str, int, int], None]

DEFAULT_LOSS_DB = 0.1
# PSNR in dB that a float network is taken to have against the truth where no truth is given, with
# the range of its output as peak. Denoisers and super-resolution reach 25 to 35.
ASSUMED_PSNR_DB = 35.0
_SAMPLE = 48  # rows and columns of outputs on which candidates are compared
_ROUNDS = 7  # of checking all errors at once
_WIDEN = 1.5  # of the sum of noise, until it does not keep the budget
_STAGE = "plan"


@dataclass(frozen=True)
class _Layer:
    """One eligible convolution: its candidates with their local errors, relative to its signal."""

    name: str
    choices: tuple[Candidate, ...]
    errors: tuple[float, ...]  # energy of the error over that of the result; float has 0


def plan_network(
    prepared: ir.IRModule,
    config: WinogradConfig,
    *,
    inputs: Sequence[Any] | None = None,
    targets: Sequence[Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Plan every convolution of a prepared module; with algorithm "auto" by measuring.

    Parameters
    ----------
    inputs : real ones for ``@main``; made up, smooth noise, if None.
    targets : the true outputs for these inputs, by which a loss is measured; if None, the float
        network is taken to be ``ASSUMED_PSNR_DB`` from the truth.
    seed : of made-up inputs.
    progress : called as progress("plan", steps done, steps).

    Raises
    ------
    ConfigError
        If a pattern matches nothing, or targets come without inputs.
    InputMismatchError
        If targets have other shapes than the outputs.
    NonFiniteError
        If the float network gives a value that is not finite.
    """
    if config.algorithm != "auto":
        return plan_convolutions(prepared, config)
    if targets is not None and inputs is None:
        raise ConfigError("targets are given without inputs; give the inputs that they belong to")
    report = progress or (lambda *_: None)
    direct = replace(
        config, algorithm="direct", min_sqnr_db=None, max_loss_db=None, scales="correlated"
    )
    base = plan_convolutions(prepared, direct)
    eligible = [layer for layer in base.layers if layer.algorithm == "direct"]
    if not eligible:
        return base
    names = [layer.name for layer in eligible]
    steps = 1 + 2 * len(names) + _ROUNDS
    report(_STAGE, 0, steps)
    given = list(inputs) if inputs is not None else random_inputs(_specs(prepared), seed)
    network = FloatNetwork(prepared, names, given)
    _check_finite(network, names)
    report(_STAGE, 1, steps)
    weights = weights_of(prepared, names)

    layers = []
    for index, layer in enumerate(eligible):
        offered = candidates(layer, config)
        layers.append(_measure(layer, offered, network.features[layer.name], weights[layer.name]))
        report(_STAGE, 2 + index, steps)
    chosen = _Chooser(network, layers, weights, config, targets).choose(
        lambda done: report(_STAGE, 1 + len(names) + done, steps)
    )
    report(_STAGE, steps, steps)
    return Plan(tuple(chosen.get(layer.name, layer) for layer in base.layers))


class _Chooser:
    def __init__(
        self,
        network: FloatNetwork,
        layers: Sequence[_Layer],
        weights: dict[str, F32],
        config: WinogradConfig,
        targets: Sequence[Any] | None,
    ) -> None:
        self.network, self.layers, self.weights = network, layers, weights
        self.least = -math.inf if config.min_sqnr_db is None else config.min_sqnr_db
        loss = config.max_loss_db
        if loss is None and config.min_sqnr_db is None:
            loss = DEFAULT_LOSS_DB
        self.loss = loss
        self.targets = None if targets is None else _arrays(targets, network.outputs)
        self.budget = math.inf if loss is None else _budget(loss, network.outputs, self.targets)
        self._errors: dict[str, tuple[int, F32]] = {}

    def choose(self, step: Callable[[int], None]) -> dict[str, LayerPlan]:
        """The plans of all layers, by name."""
        gains = [1.0] * len(self.layers)
        if self.loss is not None:
            for index, layer in enumerate(self.layers):
                gains[index] = self._gain(layer)
                step(index + 1)
        options = [
            [
                Option(candidate.cost, gain * error if self._allowed(error) else math.inf)
                for candidate, error in zip(layer.choices, layer.errors, strict=True)
            ]
            for layer, gain in zip(self.layers, gains, strict=True)
        ]
        taken = allocate(options, self.budget)
        if self.loss is not None:
            taken = self._search(options, taken, lambda i: step(len(self.layers) + i))
        total = sum(o[i].noise for o, i in zip(options, taken, strict=True))
        return {
            layer.name: _explained(layer, index, o, total, self.loss is not None)
            for layer, index, o in zip(self.layers, taken, options, strict=True)
        }

    def _search(
        self, options: Sequence[Sequence[Option]], taken: list[int], step: Callable[[int], None]
    ) -> list[int]:
        """The cheapest of some choices whose errors, all at once, keep the budget.

        Errors of many layers may support or cancel each other: the sum that `allocate` is given is
        scaled, up or down, and the scale is narrowed by bisection.
        """
        scale, kept, broken = 1.0, 0.0, math.inf
        best: list[int] | None = None
        for done in range(_ROUNDS):
            if self._keeps_budget(taken):
                best, kept = taken, scale
            else:
                broken = scale
            step(done + 1)
            if math.isinf(broken):
                scale *= _WIDEN
            else:
                scale = math.sqrt(kept * broken) if kept else scale / _WIDEN**2
            taken = allocate(options, scale * self.budget)
            if taken == best:
                break
        # Nothing kept it: the least noise that there is, which is float where errors do not add.
        return best if best is not None else allocate(options, 0.0)

    def _allowed(self, error: float) -> bool:
        return math.isfinite(error) and _decibel(error) >= self.least

    def _gain(self, layer: _Layer) -> float:
        """Noise at the outputs for a unit of the layer's relative error."""
        index = _representative(layer)
        if index is None:
            return 0.0
        noise = self._noise({layer.name: self._error(layer, index)})
        return noise / layer.errors[index]

    def _keeps_budget(self, taken: Sequence[int]) -> bool:
        errors = {
            layer.name: self._error(layer, index)
            for layer, index in zip(self.layers, taken, strict=True)
            if layer.choices[index].layer.algorithm != "float"
        }
        results = self.network.perturbed(errors)
        if self._energy(results) > self.budget:
            return False
        if self.targets is None or self.loss is None:
            return True
        # Errors that point away from the truth cost more than their energy.
        exact = sum(map(_relative_noise, self.network.outputs, self.targets))
        ours = sum(
            _relative_noise(o, t, r)
            for o, t, r in zip(self.network.outputs, self.targets, results, strict=True)
        )
        return bool(exact == 0 or 10 * math.log10(ours / exact) <= self.loss)

    def _noise(self, errors: dict[str, F32]) -> float:
        """Energy of the outputs' errors, each relative to the square of its output's range."""
        return self._energy(self.network.perturbed(errors))

    def _energy(self, results: Sequence[NDArray[Any]]) -> float:
        noise = sum(map(_relative_noise, self.network.outputs, results))
        return noise if math.isfinite(noise) else math.inf

    def _error(self, layer: _Layer, index: int) -> F32:
        """The error of a candidate on all that the layer takes, (image, row, column, channel)."""
        if layer.name in self._errors and self._errors[layer.name][0] == index:
            return self._errors[layer.name][1]
        planned = layer.choices[index].layer
        x = self.network.features[layer.name]
        y = _emulate(planned, self.weights[layer.name], x, planned.padding[0])
        error = np.ascontiguousarray(y - self.network.results[layer.name])
        self._errors[layer.name] = index, error  # the last one alone: they are as large as features
        return error


def _measure(layer: LayerPlan, offered: Sequence[Candidate], features: F32, weight: F32) -> _Layer:
    """Emulate each candidate on a part from the middle of the features."""
    taps = layer.weight_shape[2]
    padding = layer.padding[0]
    rows, columns = features.shape[1:3]
    part = features[:1]
    if min(rows, columns) > _SAMPLE + taps - 1:
        edge = _SAMPLE + taps - 1
        top, left = (rows - edge) // 2, (columns - edge) // 2
        part, padding = part[:, top : top + edge, left : left + edge], 0
    exact = torch.nn.functional.conv2d(_channels_first(part), torch.from_numpy(weight.copy()),
                                       padding=padding)  # fmt: skip
    signal = float(exact.double().square().sum())
    errors = []
    for candidate in offered:
        if candidate.layer.algorithm == "float":
            errors.append(0.0)
            continue
        y = torch.from_numpy(_emulate(candidate.layer, weight, part, padding))
        noise = float((y.permute(0, 3, 1, 2).double() - exact.double()).square().sum())
        errors.append(noise / signal if signal else 0.0)
    return _Layer(layer.name, tuple(offered), tuple(errors))


def _emulate(layer: LayerPlan, weight: F32, x: F32, padding: int) -> F32:
    convolution = EmulatedConvolution(weight, layer.scheme(), padding)
    result: F32 = convolution(_channels_first(x)).permute(0, 2, 3, 1).numpy()
    return result


def _channels_first(x: F32) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x)).permute(0, 3, 1, 2)


def _representative(layer: _Layer) -> int | None:
    """A candidate whose error is of the middle: what arrives of it stands for the others'."""
    usable = [i for i, error in enumerate(layer.errors) if 0 < error < 1]
    usable.sort(key=lambda i: layer.errors[i])
    return usable[len(usable) // 2] if usable else None


def _explained(
    layer: _Layer, index: int, options: Sequence[Option], total: float, shares: bool
) -> LayerPlan:
    """The chosen plan, with what was measured and what would have been cheaper."""
    texts = []
    chosen = layer.choices[index]
    if chosen.layer.algorithm != "float":
        texts.append(f"{_decibel(layer.errors[index]):.1f} dB")
        if shares and total > 0:
            texts.append(f"{100 * options[index].noise / total:.0f} % of the output's noise")
    cheaper = [i for i in range(len(options)) if options[i].cost < options[index].cost]
    if cheaper:
        nearest = min(cheaper, key=lambda i: layer.errors[i])
        name = _label(layer.choices[nearest])
        texts.append(f"the best that is cheaper, {name}, has {_decibel(layer.errors[nearest]):.1f}")
    return replace(chosen.layer, reason=Reason.BUDGET, detail="; ".join(texts))


def _label(candidate: Candidate) -> str:
    layer = candidate.layer
    return f"{layer.label} group {layer.group_size}"


def _budget(
    loss_db: float, outputs: Sequence[NDArray[Any]], targets: Sequence[Any] | None
) -> float:
    """Noise at the outputs by which PSNR against truth falls by as much."""
    if targets is None:
        own = 10 ** (-ASSUMED_PSNR_DB / 10)
    else:
        own = sum(map(_relative_noise, outputs, targets))
    return float(own * (10 ** (loss_db / 10) - 1))


def _arrays(targets: Sequence[Any], outputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    arrays = [t.numpy(force=True) if is_torch(t) else np.asarray(t) for t in targets]
    if [a.shape for a in arrays] != [o.shape for o in outputs]:
        raise InputMismatchError(
            f"targets have shapes {[a.shape for a in arrays]}; the network's outputs have "
            f"{[o.shape for o in outputs]}"
        )
    return arrays


def _relative_noise(
    exact: NDArray[Any], result: NDArray[Any], other: NDArray[Any] | None = None
) -> float:
    """Mean square of a difference, relative to the square of the exact output's range.

    Of the result and the exact output, or another one.
    """
    span = float(exact.max()) - float(exact.min())
    compared = exact if other is None else other
    square = float(np.mean((compared.astype(np.float64) - result) ** 2))
    return square / span**2 if span else (math.inf if square else 0.0)


def _decibel(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _specs(prepared: ir.IRModule) -> list[TensorSpec]:
    return [
        TensorSpec(str(p.name), tuple(int(size) for size in p.ty.shape), str(p.ty.dtype))
        for p in prepared["main"].params
    ]


def _check_finite(network: FloatNetwork, names: Sequence[str]) -> None:
    for name in names:
        if not np.isfinite(network.results[name]).all():
            raise NonFiniteError(
                f"layer {name}: the float network gives a value that is not finite for these "
                "inputs; give other inputs, or repair the weights"
            )
