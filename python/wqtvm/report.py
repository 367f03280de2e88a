"""Where a compiled network loses accuracy: each layer against float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm import ir
from tvm.runtime.vm import VirtualMachine

from .build import BuiltModule, Progress, build_module
from .config import WinogradConfig
from .planning import plan_network
from .quantization import sqnr_db
from .quantization.plan import Plan
from .runtime import cpu
from .runtime.made_up import random_inputs
from .runtime.specs import as_array, check_inputs
from .target import TargetRecord, lookup
from .transform import pipeline
from .transform.observe_layers import isolate_layers, observe_layers
from .transform.plan_convolutions import plan_convolutions

if TYPE_CHECKING:
    from .frontend.model import ImportedModel
    from .runtime.specs import Value

_DEFAULT = WinogradConfig()

STAGES = ("float network", "compiled network", "single layers")


@dataclass(frozen=True)
class LayerAccuracy:
    """One convolution, without the bias and activation behind it, against float.

    Attributes
    ----------
    name : the layer's.
    algorithm : "winograd", "sfc", "direct" or "float".
    label : what tables call the algorithm, such as "F(4,3)".
    local_db : SQNR in dB of this layer alone, given what the float network gives it; None in float.
    accumulated_db : SQNR in dB of this layer in the compiled network, all that comes before it
        included.
    predicted_ms : milliseconds that "auto" predicted for it; None of other plans.
    """

    name: str
    algorithm: str
    label: str
    local_db: float | None
    accumulated_db: float
    predicted_ms: float | None = None


@dataclass(frozen=True)
class OutputAccuracy:
    """One output of the compiled network: its SQNR in dB against float."""

    name: str
    sqnr_db: float


@dataclass(frozen=True)
class AccuracyReport:
    """What ``accuracy_report`` measured.

    Attributes
    ----------
    target : name of the target.
    inputs : what the network was given.
    layers : every convolution, in order of execution.
    outputs : every output, in order.
    """

    target: str
    inputs: str
    layers: tuple[LayerAccuracy, ...]
    outputs: tuple[OutputAccuracy, ...]

    @property
    def worst(self) -> LayerAccuracy | None:
        """The quantized layer that by itself loses most; None if none is quantized."""
        quantized = [layer for layer in self.layers if layer.local_db is not None]
        return min(quantized, key=_badness, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold: "inf" and "nan" are text there."""
        worst = self.worst
        document = {**asdict(self), "worst": worst.name if worst else None}
        return {name: _jsonable(value) for name, value in document.items()}

    def __str__(self) -> str:
        names = [layer.name for layer in self.layers] + [o.name for o in self.outputs]
        width = max(map(len, ["layer", *names]))
        timed = any(layer.predicted_ms is not None for layer in self.layers)
        head = f"{'layer':<{width}}  {'algorithm':<12}  local dB  accumulated dB"
        lines = [head + "  predicted ms" * timed]
        for layer in self.layers:
            mark = f"  {milliseconds(layer.predicted_ms):>12}" * timed
            mark += "  <- worst" if layer == self.worst else ""
            lines.append(
                f"{layer.name:<{width}}  {layer.label:<12}  "
                f"{decibel(layer.local_db):>8}  {decibel(layer.accumulated_db):>14}{mark}"
            )
        lines += [
            f"{o.name:<{width}}  {'':<12}  {'':>8}  {decibel(o.sqnr_db):>14}" for o in self.outputs
        ]
        return "\n".join(lines)


def accuracy_report(
    imported: ImportedModel,
    inputs: Sequence[Value] | None = None,
    *,
    target: str | TargetRecord = "wq",
    config: WinogradConfig = _DEFAULT,
    plan: Plan | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> AccuracyReport:
    """Compare every convolution of a network, as compiled, with float.

    It compiles the network three times, and keeps what all convolutions take and give.

    Parameters
    ----------
    imported : the network, from ``frontend.from_torch``.
    inputs : as for a call of the compiled network; made up (``runtime.made_up``) if None:
        real inputs tell more.
    target : the machine to compile for, which must be able to run here.
    config : what to compare.
    plan : compared instead of what the configuration leads to.
    seed : of the noise.
    progress : called as progress(stage, steps done, steps), stages as in ``STAGES``.

    Raises
    ------
    InputMismatchError
        If an input does not suit the network.
    TargetNotRunnableError
        If this machine cannot run code for the target.
    """
    record = lookup(target)
    cpu.require(record)
    if inputs is not None:
        check_inputs(inputs, imported.input_specs)
    given = inputs if inputs is not None else random_inputs(imported.input_specs, seed)
    report = progress or (lambda *_: None)
    prepared = pipeline.prepare(imported.module)
    plan = plan or plan_network(prepared, config, target=record, inputs=inputs, seed=seed)
    float_plan = plan_convolutions(prepared, WinogradConfig(algorithm="float"))
    observed = observe_layers(prepared, [layer.name for layer in plan.layers])

    report(STAGES[0], 0, 1)
    exact = _run(build_module(observed, float_plan, record), given, record)
    report(STAGES[0], 1, 1)
    report(STAGES[1], 0, 1)
    final = _run(build_module(observed, plan, record), given, record)
    report(STAGES[1], 1, 1)
    report(STAGES[2], 0, 1)
    local = _local_accuracy(prepared, plan, record, exact[1], exact[2])
    report(STAGES[2], 1, 1)

    accumulated = map(_sqnr, exact[2], final[2])
    outputs = map(_sqnr, _flat(exact[0]), _flat(final[0]))
    return AccuracyReport(
        target=record.name,
        inputs=f"made up, seed {seed}" if inputs is None else "given",
        layers=tuple(
            LayerAccuracy(
                layer.name,
                layer.algorithm,
                layer.label,
                local.get(layer.name),
                sqnr,
                layer.predicted_ms,
            )
            for layer, sqnr in zip(plan.layers, accumulated, strict=True)
        ),
        outputs=tuple(
            OutputAccuracy(spec.name, sqnr)
            for spec, sqnr in zip(imported.output_specs, outputs, strict=True)
        ),
    )


def decibel(value: float | None) -> str:
    """Return a number of dB as tables show it; "-" for what was not measured."""
    return "-" if value is None else f"{value:.1f}"


def milliseconds(value: float | None) -> str:
    """Return a predicted time as tables show it; "-" for what was not predicted."""
    return "-" if value is None else f"{value:.3g}"


def _local_accuracy(
    prepared: ir.IRModule, plan: Plan, record: TargetRecord, inputs: Any, outputs: Any
) -> dict[str, float]:
    """SQNR of each quantized layer, given what all layers take and give in float."""
    quantized = {layer.name: i for i, layer in enumerate(plan.layers) if layer.algorithm != "float"}
    if not quantized:
        return {}
    built = build_module(isolate_layers(prepared, quantized), plan, record)
    results = _run(built, [inputs[i] for i in quantized.values()], record)
    return {
        name: _sqnr(outputs[i], result)
        for (name, i), result in zip(quantized.items(), results, strict=True)
    }


def _run(built: BuiltModule, inputs: Sequence[Any], record: TargetRecord) -> Any:
    device = tvm.cuda(0) if record.architecture == "cuda" else tvm.cpu()
    main = VirtualMachine(built.executable, device)["main"]
    return main(*(_tensor(value, device) for value in (*inputs, *built.params.values())))


def _tensor(value: Any, device: tvm.runtime.Device) -> tvm.runtime.Tensor:
    if isinstance(value, tvm.runtime.Tensor):
        return value
    return tvm.runtime.tensor(np.asarray(as_array(value), order="C"), device)


def _sqnr(reference: tvm.runtime.Tensor, result: tvm.runtime.Tensor) -> float:
    return sqnr_db(reference.numpy(), result.numpy())


def _flat(result: Any) -> list[Any]:
    return [result] if isinstance(result, tvm.runtime.Tensor) else list(result)


def _badness(layer: LayerAccuracy) -> float:
    """Order by SQNR, NaN below everything."""
    return -math.inf if layer.local_db is None or math.isnan(layer.local_db) else layer.local_db


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value
