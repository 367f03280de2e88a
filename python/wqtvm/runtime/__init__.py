"""Load and run compiled networks; what the CPU can do, its tile registers, its threads."""

from __future__ import annotations

from . import threads

# Before any pool of TVM's exists: a pool's size is fixed when it is made.
threads.apply_defaults()
