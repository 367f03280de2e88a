"""``python -m wqtvm`` is the command ``wqtvm``."""

from __future__ import annotations

from .cli import main

main()
