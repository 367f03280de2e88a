from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest
import tvm

import wqtvm
from wqtvm.errors import NativeLibraryError, TargetNotRunnableError
from wqtvm.runtime import native
from wqtvm.runtime.cpu import cpu_features, require
from wqtvm.target import TABLE, best_of_host, lookup

# What src/cpu_features.cc looks for; Linux itself drops a flag whose registers it does not save.
LOOKED_FOR = {
    "x86_64": {
        "abm", "amx_bf16", "amx_int8", "amx_tile", "avx", "avx2", "avx512_bf16", "avx512_fp16",
        "avx512_vbmi2", "avx512_vnni", "avx512bw", "avx512cd", "avx512dq", "avx512f",
        "avx512ifma", "avx512vbmi", "avx512vl", "avx_vnni", "avx_vnni_int8", "bmi1", "bmi2",
        "f16c", "fma", "movbe", "popcnt", "sse4_2",
    },
    "aarch64": {"asimd", "asimddp", "asimdhp", "bf16", "i8mm", "sve", "sve2", "svei8mm"},
}  # fmt: skip


def _flags_of_linux() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    raise AssertionError("/proc/cpuinfo has no line of flags")


def test_features_are_those_of_linux():
    assert cpu_features() == _flags_of_linux() & LOOKED_FOR[platform.machine()]


def test_every_feature_that_a_target_needs_is_looked_for(any_target):
    if any_target.architecture != "cuda":
        assert set(any_target.features) <= LOOKED_FOR[any_target.architecture]


def test_require_names_what_is_missing():
    host = best_of_host()
    record = dataclasses.replace(host, features=(*host.features, "avx1024", "amx_fp4"))
    with pytest.raises(TargetNotRunnableError, match=f"{host.name} needs avx1024, amx_fp4"):
        require(record)


def test_require_refuses_another_architecture():
    for record in TABLE:
        if record.architecture not in (platform.machine(), "cuda"):
            with pytest.raises(TargetNotRunnableError, match=f"is {platform.machine()};"):
                require(record)


@pytest.mark.skipif(tvm.cuda(0).exist, reason="there is a CUDA device")
def test_require_refuses_cuda_without_a_device():
    with pytest.raises(TargetNotRunnableError, match="wq/cuda-sm80 needs an NVIDIA GPU"):
        require(lookup("wq/cuda-sm80"))


class _OldGpu:
    exist = True
    compute_version = "7.5"


def test_require_refuses_an_older_gpu(monkeypatch):
    monkeypatch.setattr(tvm, "cuda", lambda index: _OldGpu())
    with pytest.raises(TargetNotRunnableError, match=r"needs compute capability 8\.0, .* 7\.5"):
        require(lookup("wq/cuda-sm80"))


@pytest.mark.gpu
def test_require_accepts_a_gpu_of_today():
    require(lookup("wq/cuda-sm80"))


@pytest.fixture
def other_library(monkeypatch, tmp_path):
    """Look for the native library in an empty folder."""
    caches = (native.library_path, native.native_function, native._load, cpu_features)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr(wqtvm, "__path__", [str(tmp_path)])
    (tmp_path / "lib").mkdir()
    yield tmp_path / native.LIBRARY
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


def test_a_missing_library_says_how_to_build_it(other_library):
    with pytest.raises(NativeLibraryError, match="pip install") as caught:
        cpu_features()
    assert str(other_library.parent) in str(caught.value)


def test_a_broken_library_says_how_to_build_it(other_library):
    other_library.write_bytes(b"not a library")
    with pytest.raises(NativeLibraryError, match="cannot be loaded"):
        cpu_features()


def test_a_function_that_an_older_library_lacks():
    with pytest.raises(NativeLibraryError, match="has no function 'no_such_function'"):
        native.native_function("no_such_function")
