"""The passes in their order, in phases that can be run, and printed, one by one.

prepare   fold batch normalisation, NHWC                       module -> float module
quantize  the plan's convolutions become our operators         float module -> lowered module
optimize  legalize, fuse, schedule                             lowered module -> TIR
finish    memory planning, calls, virtual machine              TIR -> what relax.build takes
"""

from __future__ import annotations

from tvm import ir, relax, target, transform

from ..config import WinogradConfig
from ..quantization.plan import Plan
from ..schedules.tuned import Records, records_of
from ..target import TargetRecord, record_of, usable_cpus
from .balance_channels import balance_channels
from .channels_last import channels_last
from .check_lowered import check_lowered
from .convolutions_as_products import convolutions_as_products
from .correct_means import correct_means
from .fold_batch_norm import fold_batch_norm
from .fold_channel_scales import fold_channel_scales
from .fold_layout_constants import fold_layout_constants
from .fuse_attention import fuse_attention
from .legalize_operators import LEGALIZATIONS
from .linear_as_convolutions import linear_as_convolutions
from .lower_convolutions import Progress, lower_convolutions
from .narrow_images import narrow_images
from .pack_weights import evaluate_packing, lift_packing, mark_constants
from .plan_convolutions import plan_convolutions
from .results_as_views import results_as_views
from .schedule_operators import schedule_operators
from .schedule_remainder import schedule_remainder


def prepare(module: ir.IRModule) -> ir.IRModule:
    """Bring an imported network to the form that plans are made from.

    That is NHWC, without BatchNorm, and linear layers are convolutions.
    """
    # Weights that are computed from constants (weight normalisation) are constants before BatchNorm
    # looks for them.
    passes = [
        fold_layout_constants, relax.transform.FoldConstant(), fold_batch_norm, channels_last,
        linear_as_convolutions, relax.transform.DeadCodeElimination(),
    ]  # fmt: skip
    return transform.Sequential(passes)(module)


def quantize(
    module: ir.IRModule,
    plan: Plan,
    record: TargetRecord,
    threads: int,
    progress: Progress | None = None,
    records: Records | None = None,
) -> ir.IRModule:
    """Replace the convolutions that the plan quantizes by our operators."""
    calibrated = fold_channel_scales(correct_means(balance_channels(module, plan), plan))
    lowered = lower_convolutions(calibrated, plan, record, threads, progress, records)
    if record.architecture == "cuda":
        return lowered
    return convolutions_as_products(fuse_attention(lowered, plan.attention))


def optimize(module: ir.IRModule, record: TargetRecord, images: str = "float32") -> ir.IRModule:
    """Legalize, fuse, give every function a schedule, and store images as a dtype."""
    passes = [
        relax.backend.DispatchSortScan(),
        relax.transform.LegalizeOps(customize_legalize_map=LEGALIZATIONS),
        check_lowered,
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
        relax.transform.DeadCodeElimination(),
        mark_constants,
    ]
    fused = transform.Sequential(passes)(module)
    scheduled = lift_packing(schedule_remainder(schedule_operators(fused, record), record))
    return scheduled if images == "float32" else narrow_images(scheduled, images)


def finish(module: ir.IRModule) -> ir.IRModule:
    """Lower the graph to the virtual machine."""
    passes = [
        relax.transform.RewriteDataflowReshape(),
        relax.transform.ToNonDataflow(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.StaticPlanBlockMemory(),
        relax.transform.LowerAllocTensor(),
        relax.transform.KillAfterLastUse(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
        relax.transform.AttachGlobalSymbol(),
    ]
    return transform.Sequential(passes)(results_as_views(module))


def run_all(module: ir.IRModule) -> ir.IRModule:
    """All phases with the default configuration, for the target of the current build."""
    current = target.Target.current()
    record = record_of(current)
    prepared = prepare(module)
    plan = plan_convolutions(prepared, WinogradConfig())
    lowered = quantize(prepared, plan, record, usable_cpus(), records=records_of(record))
    with current:
        return finish(evaluate_packing(optimize(lowered, record), {})[0])
