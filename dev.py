#!/usr/bin/env python3
"""Set up, try and check wqtvm on a fresh machine: needs Python 3.11 or later and a C++ compiler.

    python3 dev.py demo            install into .venv, then run a trained network in int8
    python3 dev.py test            install, then lint, type check, and run the tests
    python3 dev.py test tests/target -k lookup      arguments after "test" go to pytest
    python3 dev.py lint            the checks of "test" without pytest
    python3 dev.py setup           install only

The first run takes a few minutes, most of them to install torch and TVM. Later runs use .venv
again, as long as neither pyproject.toml nor the C++ sources have changed; Python sources take
effect at once. To start over, delete .venv. To use what was installed: . .venv/bin/activate
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.sha256"
OLDEST_PYTHON = (3, 11)
MOST_PROCESSES = 4  # of pytest: each takes a gigabyte of memory


class SetupError(Exception):
    """What is missing on this machine, and how to get it."""


@dataclass(frozen=True)
class Step:
    """One check: a name for the summary, and a command that fails if the check does."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="dev.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("demo", help="run the demo; further arguments go to `wqtvm demo`")
    commands.add_parser("test", help="run every check; further arguments go to pytest")
    commands.add_parser("lint", help="run every check but pytest")
    commands.add_parser("setup", help="install only")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command in ("lint", "setup"):
        parser.error(f"{options.command} takes no arguments, but was given {' '.join(rest)}")
    try:
        set_up()
    except SetupError as error:
        print(f"dev.py: {error}", file=sys.stderr)
        return 2
    if options.command == "demo":
        return run(bin_path("wqtvm"), "demo", *rest)
    if options.command == "test":
        return check(lint_steps(), pytest_arguments=rest)
    if options.command == "lint":
        return check(lint_steps())
    return 0


# Setting up


def set_up() -> None:
    """Create .venv and install the project, editable, with what it needs; or find it done."""
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        wanted = ".".join(map(str, OLDEST_PYTHON))
        raise SetupError(f"this is Python {found}; run it with Python {wanted} or later")
    stamp = fingerprint()
    if STAMP.is_file() and STAMP.read_text() == stamp:
        say(f"{VENV.name} is up to date")
        return
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++")):
        raise SetupError("there is no C++ compiler; on Debian or Ubuntu: apt-get install g++")
    plan = read_plan()
    if not Path(bin_path("python")).is_file():
        say("create .venv")
        if run(sys.executable, "-m", "venv", VENV) != 0:
            raise SetupError("cannot create .venv; on Debian: apt-get install python3-venv")
    STAMP.unlink(missing_ok=True)
    extras = ",".join(plan["extras"])
    pip_install("install first", *plan["first"])
    pip_install("build and install wqtvm and what it needs", "--editable", f".[{extras}]")
    pip_install("install the demo's weights", "--no-deps", *plan["weights"])
    STAMP.write_text(stamp)


def read_plan() -> dict[str, list[str]]:
    """Return the table [tool.wqtvm.dev] of pyproject.toml: what to install, in which order."""
    import tomllib  # not at the top: an older Python shall get the message of set_up

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    plan: dict[str, list[str]] = project["tool"]["wqtvm"]["dev"]
    return plan


def fingerprint() -> str:
    """Return a hash of everything that the installation depends on, Python's version included."""
    digest = hashlib.sha256(sys.version.encode())
    for path in (ROOT / "pyproject.toml", ROOT / "CMakeLists.txt", *cpp_sources()):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def pip_install(what: str, *arguments: str) -> None:
    say(f"{what}: {' '.join(a for a in arguments if not a.startswith('--'))}")
    pip = (bin_path("python"), "-m", "pip", "--disable-pip-version-check")
    if run(*pip, "install", "-qq", "--progress-bar=off", *arguments) != 0:
        raise SetupError(f"pip could not {what}; its message is above")


# Checks


def lint_steps() -> list[Step]:
    merged = merged_package()
    return [
        Step("ruff check", (bin_path("ruff"), "check", "--quiet", ".")),
        Step("ruff format", (bin_path("ruff"), "format", "--quiet", "--check", ".")),
        Step(
            "mypy --strict",
            (bin_path("mypy"), "--package", "wqtvm"),
            (("MYPYPATH", str(merged)),),
        ),
        Step(
            "clang-format",
            (bin_path("clang-format"), "--dry-run", "--Werror", *map(str, cpp_sources())),
        ),
    ]


def merged_package() -> Path:
    """Return a folder in which wqtvm lies as it is installed, for tools that follow no finder.

    topi/ and schedules/ lie at the top of the repository, but are parts of the package.
    """
    folder = ROOT / "build" / "types"
    package = folder / "wqtvm"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    sources = [p for p in (ROOT / "python" / "wqtvm").iterdir() if not p.is_symlink()]
    for source in (*sources, ROOT / "topi", ROOT / "schedules"):
        (package / source.name).symlink_to(source)
    return folder


def check(steps: Sequence[Step], pytest_arguments: Sequence[str] | None = None) -> int:
    """Run all steps, then pytest; list what failed; pytest's own last line comes last."""
    failed = []
    for step in steps:
        say(step.name)
        if run(*step.command, environment=dict(step.environment)) != 0:
            failed.append(step.name)
    closing = ""
    if pytest_arguments is not None:
        say("pytest")
        status, closing = run_pytest(pytest_arguments)
        if status != 0:
            failed.append("pytest")
    if failed:
        say(f"FAILED: {', '.join(failed)}")
    else:
        say("all checks passed")
    print(closing, end="", flush=True)
    return 1 if failed else 0


def run_pytest(arguments: Sequence[str]) -> tuple[int, str]:
    """Run pytest, passing its output on line by line; return its status and its last line.

    All of it runs in a process a core; what is picked by arguments in one, which starts sooner.
    """
    command = [bin_path("pytest"), f"--color={'yes' if sys.stdout.isatty() else 'no'}", *arguments]
    if not arguments:
        command += ["-n", str(min(os.cpu_count() or 1, MOST_PROCESSES)), "--dist", "loadfile"]
    held = ""
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(held, end="", flush=True)
            held = line
    return process.returncode, held


# Small things


def cpp_sources() -> list[Path]:
    return sorted(p for p in (ROOT / "src").rglob("*") if p.suffix in (".cc", ".h"))


def bin_path(name: str) -> str:
    return str(VENV / "bin" / name)


def clean_environment() -> dict[str, str]:
    """Return the environment without what would make .venv see another installation."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}


def run(*command: str | Path, environment: dict[str, str] | None = None) -> int:
    """Run a command at the top of the repository and return its exit status."""
    env = clean_environment() | (environment or {})
    return subprocess.run([str(part) for part in command], cwd=ROOT, env=env).returncode


STARTED = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:4.0f} s] {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
