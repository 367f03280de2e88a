from __future__ import annotations

import dataclasses

import pytest

from wqtvm.errors import ConfigError
from wqtvm.target import TABLE, DotProduct


def test_records_are_values():
    record = TABLE[0]
    assert dataclasses.replace(record) == record
    assert hash(dataclasses.replace(record)) == hash(record)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.name = "wq/other"


def test_name_needs_the_prefix():
    with pytest.raises(ConfigError, match="'x86'; it has to begin with 'wq/'"):
        dataclasses.replace(TABLE[0], name="x86")


def test_unknown_architecture_is_refused():
    with pytest.raises(ConfigError, match="architecture 'riscv64'"):
        dataclasses.replace(TABLE[0], architecture="riscv64")


@pytest.mark.parametrize(("lanes", "reduce"), [(0, 4), (16, 0), (-1, 4)])
def test_dot_product_needs_positive_numbers(lanes, reduce):
    with pytest.raises(ConfigError, match="give positive numbers"):
        DotProduct(lanes, reduce, "int8", "int8", 0)


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 0), ("int8", 128)])
def test_zero_point_goes_with_unsigned_activations(dtype, zero_point):
    with pytest.raises(ConfigError, match="zero_point"):
        DotProduct(16, 4, dtype, "int8", zero_point)


def test_core_count_is_optional(any_target):
    assert "num-cores" not in any_target.config()
    if any_target.architecture != "cuda":
        assert any_target.config(num_cores=3)["num-cores"] == 3


def test_tvm_accepts_every_record(any_target):
    target = any_target.tvm_target()
    assert str(target.kind.name) == any_target.config()["kind"]
    assert [str(key) for key in target.keys] == any_target.config()["keys"]
