from __future__ import annotations

import platform
import re

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.target import Target

from wqtvm.errors import TargetNotRunnableError, TilePermissionError, UnknownTargetError
from wqtvm.runtime import cpu
from wqtvm.target import (
    TABLE,
    best_of_host,
    lookup,
    record_of,
    register_targets,
    target_names,
    usable_cpus,
)

BY_NAME = {record.name: record for record in TABLE}


def test_names_are_unique_and_include_the_host():
    assert len(BY_NAME) == len(TABLE)
    assert set(target_names()) == {"wq", *BY_NAME}


def test_lookup_by_name_record_and_tvm_target(any_target):
    assert lookup(any_target.name) is any_target
    assert lookup(any_target) is any_target
    assert lookup(any_target.tvm_target()) is any_target


def test_tags_are_registered_with_tvm(any_target):
    assert record_of(Target(any_target.name)) is any_target


def test_a_tag_can_be_registered_again(any_target):
    register_targets()
    assert record_of(Target(any_target.name)) is any_target


def test_record_survives_a_host_and_json():
    target = Target(Target("wq/cuda-sm80"), host=Target("llvm"))
    assert record_of(target).name == "wq/cuda-sm80"
    assert record_of(Target(Target("wq/x86-vnni").export())).name == "wq/x86-vnni"


def test_wq_is_the_best_of_this_host():
    assert lookup("wq") is best_of_host()
    assert lookup() is best_of_host()
    assert record_of(Target("wq")) is best_of_host()
    cpu.require(best_of_host())


def test_wq_counts_the_usable_cpus():
    assert int(Target("wq").attrs["num-cores"]) == usable_cpus()


def test_cross_targets_do_not_count_this_hosts_cpus():
    for record in TABLE:
        if record.architecture != platform.machine():
            assert "num-cores" not in Target(record.name).attrs


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (BY_NAME["wq/x86-vnni"].features, "wq/x86-vnni"),
        (set(BY_NAME["wq/x86-vnni"].features) - {"avx512_vnni"}, "wq/x86-avx2"),
        (set(BY_NAME["wq/x86-vnni"].features) - {"avx512vl"}, "wq/x86-avx2"),
        (BY_NAME["wq/x86-avx2"].features, "wq/x86-avx2"),
    ],
)
def test_best_of_host_follows_the_features(monkeypatch, features, expected):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(features))
    assert best_of_host().name == expected


@pytest.mark.parametrize(("refused", "expected"), [(False, "wq/x86-amx"), (True, "wq/x86-vnni")])
def test_tile_registers_are_used_where_the_kernel_lets_us(monkeypatch, refused, expected):
    asked = []

    def ask():
        asked.append(True)
        if refused:
            raise TilePermissionError("the kernel refuses")

    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset(BY_NAME["wq/x86-amx"].features))
    monkeypatch.setattr(cpu, "request_permission", ask)
    cpu.permit.cache_clear()
    try:
        assert best_of_host().name == expected
        assert asked
    finally:
        cpu.permit.cache_clear()


def test_best_of_an_arm_host(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset({"asimd", "asimddp"}))
    assert best_of_host().name == "wq/arm-neon"


def test_a_host_without_any_target_is_told_what_it_lacks(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset({"avx2", "f16c"}))
    with pytest.raises(TargetNotRunnableError, match="wq/x86-avx2 needs fma, bmi1"):
        lookup("wq")


def test_a_host_of_an_unknown_architecture(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(TargetNotRunnableError, match=r"riscv64 .* none is for this architecture"):
        lookup("wq")


def test_unknown_name_lists_the_targets_and_the_closest():
    with pytest.raises(UnknownTargetError) as caught:
        lookup("wq/x86-vnnni")
    message = str(caught.value)
    assert all(name in message for name in target_names())
    assert message.endswith("Did you mean 'wq/x86-vnni'?")


def test_nothing_is_proposed_for_a_name_that_resembles_none():
    with pytest.raises(UnknownTargetError) as caught:
        lookup("hexagon")
    assert "Did you mean" not in str(caught.value)


def test_a_foreign_tvm_target_is_unknown():
    with pytest.raises(UnknownTargetError, match="none of wqtvm's"):
        lookup(Target("llvm"))


def _saxpy() -> tvm.tirx.PrimFunc:
    x = te.placeholder((1024,), "float32", name="x")
    y = te.placeholder((1024,), "float32", name="y")
    z = te.compute((1024,), lambda i: x[i] * np.float32(2) + y[i], name="z")
    return te.create_prim_func([x, y, z])


@pytest.mark.parametrize(
    ("name", "register"),
    [("wq/x86-vnni", "zmm"), ("wq/x86-avx2", "ymm"), ("wq/arm-neon", r"v\d+\.4s")],
)
def test_loops_are_vectorised_by_the_whole_register(name, register):
    assembly = tvm.compile(_saxpy(), target=name).mod.inspect_source("asm")
    loads = re.findall(rf"^\s+(?:vmovu?ps|vfmadd|fmla|ldp|fadd)\S*\s.*{register}", assembly, re.M)
    assert loads, f"no {register} in the loop"


def test_compiled_code_runs_where_the_host_can(any_target):
    try:
        cpu.require(any_target)
    except TargetNotRunnableError as reason:
        pytest.skip(str(reason))
    if any_target.architecture == "cuda":
        pytest.skip("a loop without thread bindings is no kernel")
    run = tvm.compile(_saxpy(), target=any_target.name)
    x, y = (np.arange(1024, dtype="float32") + k for k in range(2))
    z = tvm.runtime.tensor(np.empty_like(x))
    run(tvm.runtime.tensor(x), tvm.runtime.tensor(y), z)
    # Small integers: exact in float32, fused or not.
    np.testing.assert_array_equal(z.numpy(), 2 * x + y)
