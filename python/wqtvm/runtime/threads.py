"""The threads of TVM's pools.

TVM makes one pool for each thread that calls compiled code, on its first call, and its size is
fixed then: ``TVM_NUM_THREADS`` or ``OMP_NUM_THREADS`` if set, else *half* of the CPUs. It also
pins the pool's threads, and the caller itself, to CPUs that it numbers from 0, whatever
``taskset`` or a container allows; a pool of one pins the whole Python process's main thread to
CPU 0. The defaults here are all usable CPUs, and no pinning.
"""

from __future__ import annotations

import os

from ..errors import ConfigError
from ..target.registry import usable_cpus

_COUNT = "TVM_NUM_THREADS"
_OPENMP_COUNT = "OMP_NUM_THREADS"
_BIND = "TVM_BIND_THREADS"

# Of tvm::runtime::threading::ThreadGroup::AffinityMode.
_BIG_CORES = 1


def apply_defaults() -> None:
    """Make the pools to come as wide as the usable CPUs, unless the environment says otherwise.

    The environment is the only place where TVM looks.
    """
    if _COUNT not in os.environ and _OPENMP_COUNT not in os.environ:
        os.environ[_COUNT] = str(usable_cpus())
    os.environ.setdefault(_BIND, "0")


def get_num_threads() -> int:
    """Return how many threads run compiled code that is called from this thread."""
    import tvm.runtime

    return int(tvm.runtime.num_threads())


def set_num_threads(count: int) -> None:
    """Run compiled code by ``count`` threads: from this thread, and from threads not yet started.

    Raises
    ------
    ConfigError
        If ``count`` is below 1, or above what this thread's pool was made with.
    """
    import tvm_ffi

    if count < 1:
        raise ConfigError(f"number of threads is {count}; give 1 or more")
    previous = get_num_threads()
    configure = tvm_ffi.get_global_func("runtime.config_threadpool")
    configure(_BIG_CORES, count)
    actual = get_num_threads()
    if actual != count:
        configure(_BIG_CORES, previous)
        raise ConfigError(
            f"number of threads is {count}, but this thread's pool has {actual}; "
            f"set {_COUNT}={count} in the environment before the program starts"
        )
    os.environ[_COUNT] = str(count)
