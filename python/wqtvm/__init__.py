"""Group-wise, fully quantized int8 Winograd convolutions for PyTorch networks, on Apache TVM.

    compiled = wqtvm.compile(model, example_inputs, target="wq", config=wqtvm.WinogradConfig())
    compiled(x)
    compiled.export("model.wq")
    wqtvm.load("model.wq")

The "wq" targets and the Relax pipeline "wq" are known to TVM wherever wqtvm is installed: TVM
itself calls ``register`` (entry point "tvm.backends" in pyproject.toml). TVM and PyTorch are
imported when they are needed, so that what does without, such as the command's help, comes at once.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from .config import WinogradConfig
from .runtime.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from .build import compile
    from .learning.learn import learn_scales
    from .learning.learned import LearnedScales
    from .report import accuracy_report
    from .runtime.artefact import load
    from .runtime.model import CompiledModel
    from .tuning.session import tune

_LAZY = {
    "CompiledModel": "runtime.model",
    "LearnedScales": "learning.learned",
    "accuracy_report": "report",
    "compile": "build",
    "learn_scales": "learning.learn",
    "load": "runtime.artefact",
    "tune": "tuning.session",
}

__all__ = [
    "CompiledModel",
    "LearnedScales",
    "WinogradConfig",
    "accuracy_report",
    "compile",
    "get_num_threads",
    "learn_scales",
    "load",
    "register",
    "set_num_threads",
    "tune",
]


def register() -> None:
    """Make the targets and the pipeline known to TVM; doing it again changes nothing."""
    from .relax_pipeline import register_pipeline
    from .target import register_targets

    register_targets()
    register_pipeline()


# TVM looks for entry points once, when it is imported; this also serves a package not installed.
if "tvm" in sys.modules:
    register()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'wqtvm' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
