"""Group-wise, fully quantized int8 Winograd convolutions for PyTorch networks, on Apache TVM.

    compiled = wqtvm.compile(model, example_inputs, target="wq", config=wqtvm.WinogradConfig())
    compiled(x)
    compiled.export("model.wq")
    wqtvm.load("model.wq")

Importing the package makes the "wq" targets known to TVM, and the Relax pipeline "wq".
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .config import WinogradConfig
from .relax_pipeline import register_pipeline
from .runtime.threads import get_num_threads, set_num_threads
from .target import register_targets

if TYPE_CHECKING:
    from .build import compile
    from .report import accuracy_report
    from .runtime.artefact import load
    from .runtime.model import CompiledModel

# What needs PyTorch, or much of TVM, is imported on first use.
_LAZY = {
    "CompiledModel": "runtime.model",
    "accuracy_report": "report",
    "compile": "build",
    "load": "runtime.artefact",
}

__all__ = [
    "CompiledModel",
    "WinogradConfig",
    "accuracy_report",
    "compile",
    "get_num_threads",
    "load",
    "set_num_threads",
]

register_targets()
register_pipeline()


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'wqtvm' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
