"""From a name, a TVM target or this host to the record; and the registration of the tags."""

from __future__ import annotations

import difflib
import os
import platform
from typing import TYPE_CHECKING

from ..errors import TargetNotRunnableError, TilePermissionError, UnknownTargetError, WqtvmError
from .record import TargetRecord
from .table import TABLE

if TYPE_CHECKING:
    import tvm.target

HOST = "wq"

_BY_NAME = {record.name: record for record in TABLE}


def target_names() -> tuple[str, ...]:
    """Return every name that ``lookup`` takes: "wq" and the named targets, best first."""
    return (HOST, *_BY_NAME)


def lookup(target: str | TargetRecord | tvm.target.Target = HOST) -> TargetRecord:
    """Return the record of a name ("wq" is this host), of a TVM target, or the record itself.

    Raises
    ------
    UnknownTargetError
        If there is no such target; the message lists those that there are.
    TargetNotRunnableError
        If "wq" is asked for on a host that can run none of them.
    """
    if isinstance(target, TargetRecord):
        return target
    if not isinstance(target, str):
        return record_of(target)
    if target == HOST:
        return best_of_host()
    if target in _BY_NAME:
        return _BY_NAME[target]
    raise UnknownTargetError(_unknown(target))


def record_of(target: tvm.target.Target) -> TargetRecord:
    """Return the record that a TVM target was made from.

    Raises
    ------
    UnknownTargetError
        If the target is none of ours.
    """
    for key in getattr(target, "keys", ()):
        if str(key) in _BY_NAME:
            return _BY_NAME[str(key)]
    raise UnknownTargetError(
        f"target {target} is none of wqtvm's; known targets: {', '.join(target_names())}"
    )


def best_of_host() -> TargetRecord:
    """Return the best record whose code this CPU and its operating system can run.

    Raises
    ------
    TargetNotRunnableError
        If there is none; the message says what the CPU lacks for each.
    NativeLibraryError
        If the native library, which asks the CPU, is missing.
    """
    # Imported here: the native library is loaded only where the host matters, and a host that
    # just cross-compiles needs none.
    from ..runtime.cpu import cpu_features, permit

    features = cpu_features()
    lacking = []
    for record in _of_architecture(platform.machine()):
        missing = [flag for flag in record.features if flag not in features]
        if missing:
            lacking.append(f"{record.name} needs {', '.join(missing)}")
            continue
        try:
            permit(record)
        except TilePermissionError as error:
            lacking.append(f"{record.name}: {error}")
            continue
        return record
    raise TargetNotRunnableError(
        f'target is "wq", but this {platform.machine()} CPU can run none of the targets: '
        f"{'; '.join(lacking) or 'none is for this architecture'}. "
        f"To compile for another machine name its target: {', '.join(_BY_NAME)}"
    )


def usable_cpus() -> int:
    """Return the number of CPUs that the operating system lets this process run on."""
    return len(os.sched_getaffinity(0))


def register_targets() -> None:
    """Register the tags with TVM, so that ``tvm.target.Target("wq")`` and the named ones work.

    "wq" itself stays unregistered on a host that can run no target or has no native library;
    ``lookup("wq")`` says why.
    """
    from tvm.target import register_tag

    native = {record.name for record in _of_architecture(platform.machine())}
    cores = usable_cpus()
    for record in TABLE:
        config = record.config(num_cores=cores if record.name in native else None)
        register_tag(record.name, config, override=True)
    try:
        best = best_of_host()
    except WqtvmError:
        return
    register_tag(HOST, best.config(num_cores=cores), override=True)


def _of_architecture(machine: str) -> tuple[TargetRecord, ...]:
    return tuple(record for record in TABLE if record.architecture == machine)


def _unknown(name: str) -> str:
    message = f"target is {name!r}; known targets: {', '.join(target_names())}"
    closest = difflib.get_close_matches(name, target_names(), n=1, cutoff=0.5)
    return f"{message}. Did you mean {closest[0]!r}?" if closest else message
