"""From a PyTorch model to compiled code: the pipeline's phases, called one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import ir, relax

from .config import WinogradConfig
from .errors import ConfigError
from .frontend import from_torch
from .quantization.plan import Plan
from .runtime.model import CompiledModel
from .runtime.specs import check_inputs, is_torch
from .schedules.tuned import Records, records_of
from .target import TargetRecord, lookup, usable_cpus
from .transform import pipeline
from .transform.externalize_constants import externalize_constants
from .transform.pack_weights import evaluate_packing

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

Progress = Callable[[str, int, int], None]
"""Called as progress(stage, steps done, steps); stages in order: ``STAGES``."""

STAGES = ("import", "plan", "quantize", "build")

_DEFAULT = WinogradConfig()


@dataclass(frozen=True)
class BuiltModule:
    """Compiled code and what it takes.

    Attributes
    ----------
    executable : what ``relax.build`` returns; ``main`` takes the inputs, then the parameters.
    params : the parameters by name, in the order in which ``main`` takes them.
    """

    executable: Any
    params: dict[str, NDArray[Any]]


def compile(
    model: torch.nn.Module | ExportedProgram,
    example_inputs: Sequence[torch.Tensor] | torch.Tensor | None = None,
    *,
    target: str | TargetRecord | tvm.target.Target = "wq",
    config: WinogradConfig = _DEFAULT,
    calibration: Sequence[Any] | None = None,
    targets: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> CompiledModel:
    """Compile a PyTorch model.

    Parameters
    ----------
    model : captured in evaluation mode; its own flag stays as it is.
    example_inputs : their shapes and dtypes are compiled in.
    target : a name of ``wqtvm.target.target_names()``; "wq" is this machine.
    config : how eligible convolutions are computed.
    calibration : real inputs on which algorithm "auto" measures: those of a call, or a list of
        several calls' (targets likewise), over which it takes means. Without them it
        measures on those example inputs that vary, as real ones do, and makes up the others: it
        needs no data.
    targets : the true outputs for them, a sequence; else the float network is taken to be
        ``planning.automatic.ASSUMED_PSNR_DB`` from the truth.
    progress : called as progress(stage, steps done, steps).

    Returns
    -------
    A callable on torch tensors and on numpy arrays.

    Raises
    ------
    WqtvmError
        One of ``wqtvm.errors``: an unknown target, a model that cannot be imported, a pattern that
        matches no layer, records that are not there.
    """
    if not isinstance(config, WinogradConfig):
        raise ConfigError(f"config is a {type(config).__name__}; give a wqtvm.WinogradConfig")
    report = progress or _silent
    record = lookup(target)
    tuned = records_of(record, config.records)
    report("import", 0, 1)
    imported = from_torch(model, example_inputs)
    report("import", 1, 1)
    report("plan", 0, 1)
    prepared = pipeline.prepare(imported.module)
    from .planning import calls, plan_network  # which builds, too

    for call in [] if calibration is None else calls(calibration):
        check_inputs(call, imported.input_specs)

    examples: Any = (example_inputs,) if is_torch(example_inputs) else example_inputs
    plan = plan_network(
        prepared,
        config,
        target=record,
        inputs=calibration,
        targets=targets,
        examples=examples,
        progress=report,
    )
    report("plan", 1, 1)
    built = build_module(prepared, plan, record, report, tuned)
    return CompiledModel(
        built.executable,
        built.params,
        plan=plan,
        config=config,
        target=record,
        input_specs=imported.input_specs,
        output_specs=imported.output_specs,
        single_output=imported.single_output,
        imported=imported,
    )


def build_module(
    prepared: ir.IRModule,
    plan: Plan,
    record: TargetRecord,
    progress: Progress | None = None,
    records: Records | None = None,
) -> BuiltModule:
    """Compile a prepared module (see ``transform.pipeline``) according to a plan.

    Records are of tuned kernels; those that come with wqtvm if None.

    Raises
    ------
    ConfigError
        If images are narrow and the target is no CPU; or if the products of attention are of
        bfloat16 and the target has no tile registers.
    """
    if plan.images != "float32" and record.architecture == "cuda":
        raise ConfigError(
            f"images is {plan.images!r}, which is for CPUs; give 'float32' for {record.name}"
        )
    if plan.attention == "bfloat16" and not record.has_tiles:
        raise ConfigError(
            f"attention is {plan.attention!r}, for which {record.name} has no tile registers; give "
            "'float32', or a target with AMX, wq/x86-amx"
        )
    report = progress or _silent
    tuned = records_of(record) if records is None else records
    lowered = pipeline.quantize(prepared, plan, record, usable_cpus(), report, tuned)
    report("build", 0, 3)
    lowered, params = externalize_constants(lowered)
    target = tvm.target.Target(record.config(num_cores=usable_cpus()))
    with target:
        scheduled = pipeline.optimize(lowered, record, plan.images)
        scheduled, params = evaluate_packing(scheduled, params)
        report("build", 1, 3)
        finished = pipeline.finish(scheduled)
    report("build", 2, 3)
    executable = relax.build(finished, target=target, relax_pipeline=None)
    report("build", 3, 3)
    return BuiltModule(executable, {name: np.asarray(value) for name, value in params.items()})


def _silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""
