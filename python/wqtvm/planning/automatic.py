"""Choose an algorithm for each layer, so that the network keeps an accuracy budget.

1. The float network runs on this machine, on the user's inputs or on made-up ones, and shows what
   each convolution takes: features of the network itself tell far more than noise does.
2. Each layer's candidates are emulated on a part of that, for their own errors, but those that can
   be known to be no better than others.
3. One candidate's real error of each layer, alone, is added to what it gives, and the network's
   output shows how much of it arrives; other candidates' arrive in proportion.
4. The choice is made that is predicted to take the least time (``cost``) of those whose errors,
   added up, keep the budget.
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
from ..emulation import emulated_convolution
from ..errors import ConfigError, InputMismatchError, NonFiniteError
from ..quantization.plan import LayerPlan, Plan, Reason
from ..runtime.specs import as_array
from ..schedules.tuned import records_of
from ..target import TargetRecord, lookup, usable_cpus
from ..target.machine import measured_machine
from ..tensor_spec import TensorSpec
from ..topi.layer import workload_of
from ..transform.balance_channels import balanceable
from ..transform.plan_convolutions import plan_convolutions
from .allocate import Option, allocate
from .calibrate import balanced, channels_first, corrected, errors_of
from .candidates import Candidate, candidates
from .cost import predict
from .float_network import F32, FloatNetwork, Sample, weights_of
from .samples import calls, made_up_samples

Progress = Callable[[str, int, int], None]

DEFAULT_LOSS_DB = 0.1
# PSNR in dB that a float network is taken to have against the truth where no truth is given, with
# the range of its output as peak. Denoisers and super-resolution reach 25 to 35.
ASSUMED_PSNR_DB = 35.0
# The same where all outputs are a few numbers, such as scores of classes: what counts is which is
# the largest. Noise of a loss of 0.1 dB is then 41 dB below their range, less than 1 % of it.
ASSUMED_SCORES_PSNR_DB = 25.0
# Of the loss that may be spent on the inputs that are seen: others lose up to a tenth more.
_MARGIN = 0.85
# The same where they are made up: of real ones Open Image Denoise makes noise that is 5 dB louder
# than of a picture of dead leaves.
_MARGIN_MADE_UP = 0.7
_PATCH = 24  # rows and columns of outputs in each of four patches on which candidates are compared
_ROUNDS = 7  # of checking all errors at once
_WIDEN = 1.5  # of the sum of noise, until it does not keep the budget
_STAGE = "plan"


@dataclass(frozen=True)
class _Layer:
    """An eligible convolution: candidates, the fastest first, and errors relative to its signal."""

    name: str
    choices: tuple[Candidate, ...]
    errors: tuple[float, ...]  # energy of the error over that of the result; float has 0


def plan_network(
    prepared: ir.IRModule,
    config: WinogradConfig,
    *,
    target: str | TargetRecord = "wq",
    inputs: Sequence[Any] | None = None,
    targets: Sequence[Any] | None = None,
    examples: Sequence[Any] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Plan:
    """Plan every convolution of a prepared module; with algorithm "auto" by measuring.

    Where channels are to be balanced, by what they hold, the float network runs, too.

    Parameters
    ----------
    target : the machine whose time "auto" minimizes, by as many threads as CPUs may be used here.
    inputs : real ones for ``@main``, of a call or a list of calls; made up if None.
    targets : the true outputs for these inputs, of the call or each call, by which a loss is
        measured; if None, the float network is taken to be ``ASSUMED_PSNR_DB`` from the truth, or
        ``ASSUMED_SCORES_PSNR_DB`` if it gives no images.
    examples : where there are no inputs, inputs of which those that vary are taken for real.
    seed : of made-up inputs.
    progress : called as progress("plan", steps done, steps).

    Raises
    ------
    ConfigError
        If a pattern matches nothing, targets come without inputs, the network is to be calibrated
        and nothing says what its inputs are, or the file of peaks lacks what the target needs.
    InputMismatchError
        If targets have other shapes than the outputs.
    NonFiniteError
        If the float network gives a value that is not finite.
    """
    automatic = config.algorithm == "auto"
    if not (automatic or config.calibrate):
        return plan_convolutions(prepared, config)
    if targets is not None and inputs is None:
        raise ConfigError("targets are given without inputs; give the inputs that they belong to")
    report = progress or (lambda *_: None)
    record = lookup(target)
    has_bfloat16 = record.bfloat16 is not None
    predicted_ms, measured_ms = _clocks(record, config)
    direct = replace(
        config,
        algorithm="direct",
        min_sqnr_db=None,
        max_loss_db=None,
        peaks=None,
        scales="correlated",
    )
    base = plan_convolutions(prepared, direct if automatic else config)
    eligible = [layer for layer in base.layers if layer.algorithm != "float"]
    if not eligible:
        return base
    names = [layer.name for layer in eligible]
    steps = 1 + (2 * len(names) + _ROUNDS if automatic else len(names))
    report(_STAGE, 0, steps)
    network = FloatNetwork(prepared, names)
    if inputs is None:
        samples, typical = made_up_samples(network, _specs(prepared), examples, seed)
    else:
        samples, typical = [network.run(call) for call in calls(inputs)], True
    _check_finite(samples, names)
    report(_STAGE, 1, steps)
    weights = weights_of(prepared, names)
    if config.calibrate and not typical:
        raise ConfigError(
            "calibrate is True, but nothing says what this network's inputs are: it does not give "
            "pictures of 0 to 1 back, and no examples vary; give calibration inputs, or leave "
            "calibrate out"
        )
    calibrate = config.calibrate is not False and typical
    if calibrate:
        free = balanceable(prepared["main"])
        eligible = [
            balanced(layer, weights[layer.name], samples) if layer.name in free else layer
            for layer in eligible
        ]
    if not automatic:
        planned = {}
        for index, layer in enumerate(eligible):
            errors = errors_of(layer, weights[layer.name], samples)
            planned[layer.name] = corrected(layer, errors)
            report(_STAGE, 2 + index, steps)
        return _with_layers(base, planned)

    layers = []
    for index, layer in enumerate(eligible):
        offered = candidates(layer, config, predicted_ms, measured_ms, has_bfloat16)
        features = [sample.features[layer.name] for sample in samples]
        layers.append(_measure(layer, offered, features, weights[layer.name]))
        report(_STAGE, 2 + index, steps)
    margin = _MARGIN_MADE_UP if inputs is None else _MARGIN
    chosen = _Chooser(samples, layers, weights, config, targets, calibrate, margin).choose(
        lambda done: report(_STAGE, 1 + len(names) + done, steps)
    )
    report(_STAGE, steps, steps)
    return _with_layers(base, chosen)


def _with_layers(plan: Plan, others: dict[str, LayerPlan]) -> Plan:
    """The plan with others for the layers of these names."""
    return replace(plan, layers=tuple(others.get(layer.name, layer) for layer in plan.layers))


class _Chooser:
    def __init__(
        self,
        samples: Sequence[Sample],
        layers: Sequence[_Layer],
        weights: dict[str, F32],
        config: WinogradConfig,
        targets: Sequence[Any] | None,
        correct: bool,
        margin: float,
    ) -> None:
        self.correct = correct
        self.samples, self.layers, self.weights = samples, layers, weights
        self.least = -math.inf if config.min_sqnr_db is None else config.min_sqnr_db
        loss = config.max_loss_db
        if loss is None and config.min_sqnr_db is None:
            loss = DEFAULT_LOSS_DB
        self.loss = None if loss is None else margin * loss
        self.distance: float | None = None  # of the float network from the truth, as noise
        scores = all(output.ndim <= 2 for sample in samples for output in sample.outputs)
        assumed = ASSUMED_SCORES_PSNR_DB if scores else ASSUMED_PSNR_DB
        if targets is not None:
            self.targets = _arrays(calls(targets), samples)
            self.distance = self._mean_noise(self.targets)
        self.budget = math.inf
        if self.loss is not None:
            self.budget = _budget(self.loss, self.distance, assumed)
        self._errors: dict[str, tuple[int, list[F32]]] = {}

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
        found = {}
        for layer, index, o in zip(self.layers, taken, options, strict=True):
            plan = _explained(layer, index, o, total, self.loss is not None)
            if self.correct and plan.algorithm != "float":
                # Not counted in the budget: on other inputs errors have other means.
                plan = corrected(plan, self._error(layer, index))
            found[layer.name] = plan
        return found

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
        errors = self._error(layer, index)
        noise = self._mean_noise(
            [s.perturbed({layer.name: e}) for s, e in zip(self.samples, errors, strict=True)]
        )
        return (noise if math.isfinite(noise) else math.inf) / layer.errors[index]

    def _keeps_budget(self, taken: Sequence[int]) -> bool:
        errors = {
            layer.name: self._error(layer, index)
            for layer, index in zip(self.layers, taken, strict=True)
            if layer.choices[index].layer.algorithm != "float"
        }
        results = [
            sample.perturbed({name: each[i] for name, each in errors.items()})
            for i, sample in enumerate(self.samples)
        ]
        if not self._mean_noise(results) <= self.budget:  # nor if it is NaN
            return False
        if not self.distance or self.loss is None:
            return True
        # Errors that point away from the truth cost more than their energy.
        ours = self._mean_noise(results, self.targets)
        return 10 * math.log10(ours / self.distance) <= self.loss

    def _mean_noise(
        self,
        results: Sequence[Sequence[NDArray[Any]]],
        wanted: Sequence[Sequence[NDArray[Any]]] | None = None,
    ) -> float:
        """Mean over samples of the energy of differences, relative to squares of outputs' ranges.

        Of results from what is wanted; from the float network's outputs, if None.
        """
        wanted = wanted or [sample.outputs for sample in self.samples]
        energies = [
            sum(map(_relative_noise, sample.outputs, result, true))
            for sample, result, true in zip(self.samples, results, wanted, strict=True)
        ]
        return sum(energies) / len(energies)

    def _error(self, layer: _Layer, index: int) -> list[F32]:
        """The errors of a candidate on all that the layer takes, (image, row, column, channel)."""
        if layer.name in self._errors and self._errors[layer.name][0] == index:
            return self._errors[layer.name][1]
        errors = errors_of(layer.choices[index].layer, self.weights[layer.name], self.samples)
        self._errors[layer.name] = index, errors  # the last alone: they are as large as features
        return errors


def _clocks(
    record: TargetRecord, config: WinogradConfig
) -> tuple[Callable[[LayerPlan], float], Callable[[LayerPlan], float | None]]:
    """What predicts the milliseconds of a planned layer, and what knows measured ones."""
    threads, machine = usable_cpus(), record.machine
    if config.peaks is not None:
        machine = measured_machine(machine, config.peaks, threads)
    records = records_of(record, config.records)

    def measured_ms(layer: LayerPlan) -> float | None:
        if not layer.is_int8:
            return None
        winner = records.winner(workload_of(layer, record), record, threads, config.images)
        return None if winner is None else winner.ms

    def predicted_ms(layer: LayerPlan) -> float:
        return predict(layer, record, threads, machine, config.images).ms

    return predicted_ms, measured_ms


def _measure(
    layer: LayerPlan, offered: Sequence[Candidate], features: Sequence[F32], weight: F32
) -> _Layer:
    """Emulate candidates on parts of the features; errors are means over samples.

    The error of one is known to be no less than that of one that surpasses it. So the most accurate
    of each algorithm come first, and then, fast ones before slow ones, those of which it is still
    open whether a faster one, measured already, has no more error than they have at least.
    """
    parts = [_part(layer, x, weight) for x in features]
    better = [
        [j for j, other in enumerate(offered) if j != i and other.surpasses(candidate)]
        for i, candidate in enumerate(offered)
    ]
    is_float = [candidate.layer.algorithm == "float" for candidate in offered]
    errors = {i: 0.0 for i in range(len(offered)) if is_float[i]}
    order = sorted(range(len(offered)), key=lambda i: (any(j not in errors for j in better[i]), i))
    for i in order:
        least = max(errors.get(j, 0.0) for j in better[i]) if better[i] else 0.0
        if i in errors or any(j < i and error <= least for j, error in errors.items()):
            continue
        convolution = emulated_convolution(weight, offered[i].layer, parts[0].padding)
        errors[i] = float(np.mean([part.error_of(convolution) for part in parts]))
    kept = sorted(errors)
    return _Layer(layer.name, tuple(offered[i] for i in kept), tuple(errors[i] for i in kept))


@dataclass(frozen=True)
class _Part:
    """What a layer takes on four patches, one from each quarter, and what float makes of it.

    Attributes
    ----------
    x, y : float32 (patch, channel, row, column).
    padding : of x.
    """

    x: torch.Tensor
    y: torch.Tensor
    padding: int

    def error_of(self, convolution: torch.nn.Module) -> float:
        """Energy of a convolution's error relative to the signal."""
        exact = self.y.double()
        signal, noise = exact.square().sum(), (convolution(self.x).double() - exact).square().sum()
        return float(noise / signal) if signal else 0.0


def _part(layer: LayerPlan, features: F32, weight: F32) -> _Part:
    padding, stride = layer.padding[0], layer.stride[0]
    edge = (_PATCH - 1) * stride + layer.weight_shape[2]
    rows, columns = features.shape[1:3]
    part = features[:1]
    if min(rows, columns) >= 2 * edge:
        tops, lefts = (
            [(2 * i + 1) * size // 4 - edge // 2 for i in (0, 1)] for size in (rows, columns)
        )
        part = np.concatenate([part[:, y : y + edge, x : x + edge] for y in tops for x in lefts])
        padding = 0
    x = channels_first(part)
    exact = torch.nn.functional.conv2d(x, torch.from_numpy(weight.copy()), None, stride, padding)
    return _Part(x, exact, padding)


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
        best, found = layer.choices[nearest], _decibel(layer.errors[nearest])
        ms = best.layer.ms
        texts.append(f"the best that is cheaper, {best.label}, {ms:.3g} ms, has {found:.1f} dB")
    return replace(chosen.layer, reason=Reason.BUDGET, detail="; ".join(texts))


def _budget(loss_db: float, distance: float | None, assumed_db: float) -> float:
    """Noise at the outputs by which PSNR against truth falls by as much."""
    own = 10 ** (-assumed_db / 10) if distance is None else distance
    return float(own * (10 ** (loss_db / 10) - 1))


def _arrays(
    targets: Sequence[Sequence[Any]], samples: Sequence[Sample]
) -> list[list[NDArray[Any]]]:
    arrays = [[as_array(target) for target in call] for call in targets]
    given = [[array.shape for array in call] for call in arrays]
    wanted = [[output.shape for output in sample.outputs] for sample in samples]
    if given != wanted:
        raise InputMismatchError(
            f"targets have shapes {given} by call; the network's outputs have {wanted}"
        )
    return arrays


def _relative_noise(output: NDArray[Any], result: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Mean square of a result's difference from what is wanted, in squares of an output's range."""
    span = float(output.max()) - float(output.min())
    square = float(np.mean((wanted.astype(np.float64) - result) ** 2))
    return square / span**2 if span else (math.inf if square else 0.0)


def _decibel(error: float) -> float:
    return math.inf if error == 0 else -10 * math.log10(error)


def _specs(prepared: ir.IRModule) -> list[TensorSpec]:
    return [
        TensorSpec(str(p.name), tuple(int(size) for size in p.ty.shape), str(p.ty.dtype))
        for p in prepared["main"].params
    ]


def _check_finite(samples: Sequence[Sample], names: Sequence[str]) -> None:
    for name in names:
        if not all(np.isfinite(sample.results[name]).all() for sample in samples):
            raise NonFiniteError(
                f"layer {name}: the float network gives a value that is not finite for these "
                "inputs; give other inputs, or repair the weights"
            )
