"""Which tests this machine can run, and a closing table of which of them it ran."""

from __future__ import annotations

import os
import platform
from collections import Counter

import hypothesis
import pytest
import tvm  # before wqtvm, which then registers its targets, whether it is installed or not

from wqtvm.errors import WqtvmError
from wqtvm.runtime.cpu import cpu_features
from wqtvm.target import TABLE, TargetRecord, best_of_host

# The same examples on every run and every machine: a failure can be run again.
hypothesis.settings.register_profile("wqtvm", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("wqtvm")


def pytest_configure(config: pytest.Config) -> None:
    # What a process that runs tests prints goes to files, whose width is not a terminal's.
    if hasattr(config, "workerinput"):
        os.environ.pop("COLUMNS", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for marker in item.iter_markers("isa"):
            (feature,) = marker.args
            if feature not in cpu_features():
                item.add_marker(pytest.mark.skip(reason=f"this CPU does not offer {feature}"))
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: runs with --slow"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    report.groups = _groups(item)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    outcomes = ("passed", "failed", "error", "skipped")
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in outcomes:
        for report in terminalreporter.stats.get(outcome, []):
            # A passing set-up or tear-down is not a test.
            if outcome == "passed" and report.when != "call":
                continue
            counts.update((group, outcome) for group in getattr(report, "groups", ()))
    terminalreporter.section("what this machine ran")
    terminalreporter.write_line(_host())
    groups = sorted({group for group, _ in counts})
    for group in groups:
        parts = [f"{counts[group, o]} {o}" for o in outcomes if counts[group, o]]
        terminalreporter.write_line(f"  {group:<22}{', '.join(parts)}")


def _groups(item: pytest.Item) -> tuple[str, ...]:
    """Return what the closing table counts a test under: its markers, or "any machine"."""
    groups = [f"isa({marker.args[0]})" for marker in item.iter_markers("isa")]
    groups += [name for name in ("gpu", "slow") if item.get_closest_marker(name)]
    return tuple(groups) or ("any machine",)


def _has_gpu() -> bool:
    return bool(tvm.cuda(0).exist)


def _host() -> str:
    try:
        best = best_of_host().name
    except WqtvmError as error:
        best = f"none ({error})"
    return f"{platform.machine()}, target wq = {best}, CUDA device: {_has_gpu()}"


@pytest.fixture(params=TABLE, ids=lambda record: record.name)
def any_target(request: pytest.FixtureRequest) -> TargetRecord:
    """Every record of the table in turn."""
    return request.param
