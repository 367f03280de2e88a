"""The records that come with wqtvm: of today's spaces, with what they were measured on."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tuning_layers import layer

from wqtvm.quantization.plan import LayerPlan
from wqtvm.schedules import tuned
from wqtvm.schedules.kernels import kernels_of
from wqtvm.target import lookup, target_names
from wqtvm.topi.layer import workload_of
from wqtvm.tuning.session import _command

FILES = sorted(tuned.FOLDER.glob("*.jsonl"))


def planned(key: dict[str, Any]) -> LayerPlan:
    import dataclasses

    direct = key["algorithm"] == "direct"
    tile = None if direct else int(re.findall(r"\d+", key["algorithm"])[0])
    found = layer(
        algorithm="direct" if direct else "winograd", tile=tile, channels=tuple(key["channels"]),
        size=tuple(key["size"]), precision=key["precision"], group_size=key["group"],
        batch=key["batch"],
    )  # fmt: skip
    return dataclasses.replace(
        found,
        weight_steps=key["weight_steps"],
        activation_steps=key.get("activation_steps", "pixel"),
    )


def test_there_are_some() -> None:
    assert [path.name for path in FILES] == ["x86-amx.jsonl", "x86-vnni.jsonl"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_they_are_found_and_used(path: Path) -> None:
    record = lookup(f"wq/{path.stem}")
    records = tuned.records_of(record)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) == len(lines)
    for entry in lines:
        key = entry["key"]
        work = workload_of(planned(key), record)
        images = key.get("images", "float32")
        assert tuned.key_of(work, record, key["threads"], images) == json.dumps(key)
        winner = records.winner(work, record, key["threads"], images)
        assert winner is not None, f"{key}: its point is none of the space; tune it again"
        assert winner.ms <= winner.default_ms
        divided = records.divided(work, record, key["threads"], images)
        own = kernels_of(record).divided(work, key["threads"], winner.point)
        assert divided == own
        assert {"cpu", "versions", "when", "command", "rounds"} <= entry.keys()
        words = set(entry["command"].split()) - set(target_names())
        assert not any("/" in word for word in words)


def test_commands_are_kept_without_folders() -> None:
    words = ["/home/me/bin/wqtvm", "tune", "nets/unet.json", "--target", "wq/x86-vnni", "-q"]
    assert _command(words) == "wqtvm tune unet.json --target wq/x86-vnni -q"
