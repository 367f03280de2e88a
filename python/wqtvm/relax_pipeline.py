"""The Relax pipeline "wq", for those who already use TVM.

``relax.build(module, target=tvm.target.Target("wq"), relax_pipeline="wq")``
"""

from __future__ import annotations

from tvm import ir, relax

NAME = "wq"


def register_pipeline() -> None:
    """Register the pipeline with TVM; the phases themselves are imported when it runs."""
    if NAME not in relax.pipeline.PIPELINE_MAP:
        relax.register_pipeline(NAME)(_make)


def _make() -> ir.transform.Pass:
    @ir.transform.module_pass(opt_level=0, name=NAME)
    def run(module: ir.IRModule, context: ir.transform.PassContext) -> ir.IRModule:
        from .transform.pipeline import run_all

        return run_all(module)

    return run
