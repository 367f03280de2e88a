from __future__ import annotations

import json
import subprocess

import pytest

from wqtvm import doctor
from wqtvm.doctor import examine
from wqtvm.errors import NativeLibraryError, TilePermissionError
from wqtvm.runtime import cpu
from wqtvm.target import TABLE, best_of_host


@pytest.fixture(scope="module")
def diagnosis():
    return examine()


def test_nothing_is_in_the_way_here(diagnosis):
    assert diagnosis.problems == ()
    assert set(best_of_host().features) <= set(diagnosis.features)
    assert diagnosis.cpus >= 1
    assert diagnosis.threads >= 1
    assert json.loads(json.dumps(diagnosis.to_dict()))["machine"] == diagnosis.machine


def test_every_target_is_listed_with_its_obstacle(diagnosis):
    assert [target.name for target in diagnosis.targets] == [record.name for record in TABLE]
    obstacles = {target.name: target.obstacle for target in diagnosis.targets}
    assert obstacles[best_of_host().name] is None
    for record in TABLE:
        if record.architecture not in (best_of_host().architecture, "cuda"):
            obstacle = obstacles[record.name]
            assert obstacle.startswith(f"target {record.name} is for {record.architecture}")


def test_cpu_that_can_run_nothing(monkeypatch):
    monkeypatch.setattr(cpu, "cpu_features", frozenset)
    diagnosis = examine()
    (problem,) = diagnosis.problems
    assert "can run none of the targets" in problem
    assert all(target.obstacle for target in diagnosis.targets)


def test_broken_native_library_is_one_problem(monkeypatch):
    def broken(*_: object) -> None:
        raise NativeLibraryError("libwqtvm_native.so is not there; build it")

    monkeypatch.setattr(cpu, "native_function", broken)
    cpu.cpu_features.cache_clear()
    try:
        diagnosis = examine()
    finally:
        cpu.cpu_features.cache_clear()
    assert diagnosis.problems == ("libwqtvm_native.so is not there; build it",)
    assert diagnosis.features == ()


def test_broken_tvm_is_a_problem(monkeypatch):
    def broken() -> int:
        raise ImportError("libtvm.so: undefined symbol")

    monkeypatch.setattr(doctor, "_threads", broken)
    diagnosis = examine()
    assert diagnosis.problems == ("libtvm.so: undefined symbol",)
    assert diagnosis.threads is None


def test_tile_permission(monkeypatch):
    from wqtvm.runtime import amx

    def refused() -> None:
        raise TilePermissionError("the kernel refuses; it takes Linux 5.16")

    monkeypatch.setattr(amx, "request_permission", refused)
    assert examine().amx == "the kernel refuses"
    monkeypatch.setattr(amx, "request_permission", lambda: None)
    assert examine().amx == "the kernel permits the use of the AMX tile registers"


def test_wrong_version_of_an_exact_requirement(monkeypatch):
    required = ["apache-tvm-ffi==0.1.14.post1", "numpy>=1.26", "ruff==1; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: required)
    monkeypatch.setattr(doctor, "version", lambda _: "0.1.15")
    (problem,) = doctor._wrong_versions()
    assert problem == (
        "apache-tvm-ffi is 0.1.15, and wqtvm works with 0.1.14.post1 only; "
        "run `pip install apache-tvm-ffi==0.1.14.post1`"
    )
    monkeypatch.setattr(doctor, "version", lambda _: "0.1.14.post1")
    assert doctor._wrong_versions() == []


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 'g++ (Debian 12.2.0-14) 12.2.0'", "g++ (Debian 12.2.0-14) 12.2.0"),
        (
            "echo 'nvcc: NVIDIA (R) Cuda'; echo 'Copyright (c) 2005-2025'; echo 'release 13.0'",
            "release 13.0",
        ),
        ("exit 1", "unknown"),
        ("printf '\\377'", "unknown"),
    ],
)
def test_tools_tell_their_version(monkeypatch, tmp_path, script, version):
    tool = tmp_path / "g++"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    found = {tool.name: tool for tool in examine().tools}
    assert found["g++"].version == version
    assert found["g++"].path == str(tool)


def test_tools_that_are_absent_or_hang(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {tool.path for tool in examine().tools} == {None}

    def hangs(command, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 10)

    tool = tmp_path / "g++"
    tool.touch(mode=0o755)
    monkeypatch.setattr(doctor.subprocess, "run", hangs)
    found = {tool.name: tool for tool in examine().tools}
    assert found["g++"].version.startswith("does not start")
