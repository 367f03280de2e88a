"""What this machine can run: CPU features as the operating system allows them, and the GPU."""

from __future__ import annotations

import functools
import platform
from typing import TYPE_CHECKING

from ..errors import TargetNotRunnableError
from .amx import request_permission
from .native import native_function

if TYPE_CHECKING:
    from ..target import TargetRecord


_TILES = "amx_tile"  # registers that a process has to ask for


@functools.cache
def cpu_features() -> frozenset[str]:
    """Return the usable CPU features, named as in Linux' /proc/cpuinfo ("avx512_vnni", "i8mm").

    Only features that matter to some target are looked for. One that the CPU has, but whose
    registers the operating system does not save, is not usable.

    Raises
    ------
    NativeLibraryError
        If the native library is missing.
    """
    return frozenset(str(name) for name in native_function("cpu_features")())


def require(record: TargetRecord) -> None:
    """Check that this machine can run code for ``record``.

    Raises
    ------
    TargetNotRunnableError
        If it cannot; the message names what is missing. TilePermissionError, which is one, if the
        kernel refuses the tile registers.
    """
    if record.architecture == "cuda":
        _require_cuda(record)
        return
    if record.architecture != platform.machine():
        raise TargetNotRunnableError(
            f"target {record.name} is for {record.architecture}, but this machine is "
            f"{platform.machine()}; compile for another target"
        )
    missing = [flag for flag in record.features if flag not in cpu_features()]
    if missing:
        raise TargetNotRunnableError(
            f"target {record.name} needs {', '.join(missing)}, which this CPU or its operating "
            'system does not offer; compile for target "wq", which is this host'
        )
    permit(record)


@functools.cache
def permit(record: TargetRecord) -> None:
    """Ask the kernel, once a process, for registers that code for ``record`` needs leave to use.

    Raises
    ------
    TilePermissionError
        If it refuses.
    """
    if _TILES in record.features:
        request_permission()


def _require_cuda(record: TargetRecord) -> None:
    import tvm

    device = tvm.cuda(0)
    if not device.exist:
        raise TargetNotRunnableError(
            f"target {record.name} needs an NVIDIA GPU, and there is none that CUDA can use; "
            'compile for target "wq", which is this host'
        )
    have = tuple(int(part) for part in device.compute_version.split("."))
    digits = record.mcpu.removeprefix("sm_")
    need = (int(digits[:-1]), int(digits[-1]))
    if have < need:
        raise TargetNotRunnableError(
            f"target {record.name} needs compute capability {need[0]}.{need[1]}, but this GPU has "
            f'{device.compute_version}; compile for target "wq", which is this host'
        )
