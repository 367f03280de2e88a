"""The `wq` targets: tags over LLVM and CUDA, each one frozen record."""

from __future__ import annotations

from .record import DotProduct, TargetRecord
from .registry import (
    best_of_host,
    lookup,
    record_of,
    register_targets,
    target_names,
    usable_cpus,
)
from .table import TABLE

__all__ = [
    "TABLE",
    "DotProduct",
    "TargetRecord",
    "best_of_host",
    "lookup",
    "record_of",
    "register_targets",
    "target_names",
    "usable_cpus",
]
