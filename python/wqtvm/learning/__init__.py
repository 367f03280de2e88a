"""Learned scales: learning them (PyTorch), keeping them in files, and finding them by name."""

from __future__ import annotations

from .learned import (
    LearnedScales,
    Provenance,
    learned_scales,
    resolve_scales,
    shipped_scales,
)

__all__ = ["LearnedScales", "Provenance", "learned_scales", "resolve_scales", "shipped_scales"]
