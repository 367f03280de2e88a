"""Learned scales in files: read back exactly, and refused if altered, missing, or for others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from wqtvm.errors import (
    AlgorithmError,
    AlreadyExistsError,
    ArtefactCorruptError,
    ArtefactError,
    ArtefactMissingFileError,
    ArtefactVersionError,
)
from wqtvm.fastconv import ScaleSet, correlated_scales, winograd
from wqtvm.learning import LearnedScales, Provenance, resolve_scales

F23 = winograd(2)
MADE = Provenance(
    algorithm=F23.name, points=F23.points, precision="full", group_size=32, steps="axis",
    weight_steps="tap", noise="correlated", rho=0.85, weights="a test's", start="correlated",
    optimizer="sgd", learning_rate=0.01, layers_per_iteration=2, seed=0, iterations=7,
    ended="converged", before_db=30.0, after_db=30.5, wqtvm="0.1.0", torch="2.13.0",
)  # fmt: skip
VALUES = (1.0, 0.1, 1 / 3, 2.0**-30)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    LearnedScales(ScaleSet("learned", VALUES, VALUES[::-1]), MADE).save(path)
    return path


def test_files_are_read_back_exactly(path: Path) -> None:
    found = LearnedScales.load(path)
    assert found == LearnedScales(ScaleSet(str(path), VALUES, VALUES[::-1]), MADE)
    assert resolve_scales(str(path), F23) == found.scales
    assert {file.name for file in path.parent.iterdir()} == {"mine.safetensors", "mine.json"}


def test_layers_may_have_scales_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "layers.safetensors"
    shared, own = ScaleSet("learned", VALUES, VALUES), ScaleSet("learned", VALUES[::-1], VALUES)
    LearnedScales(shared, MADE, {"body.3": own}).save(path)
    assert set(LearnedScales.load(path).layers) == {"body.3"}
    assert resolve_scales(str(path), F23, "body.3").s_b == VALUES[::-1]
    for other in ("body.30", None):
        assert resolve_scales(str(path), F23, other).s_b == VALUES


def test_scales_by_name() -> None:
    assert resolve_scales("correlated", F23) == correlated_scales(F23)


def test_nothing_is_replaced_unless_asked(path: Path) -> None:
    found = replace(LearnedScales.load(path), provenance=replace(MADE, seed=1))
    with pytest.raises(AlreadyExistsError, match=r"mine\.safetensors exists; .*overwrite"):
        found.save(path)
    found.save(path, overwrite=True)
    assert LearnedScales.load(path).provenance.seed == 1
    path.unlink()
    with pytest.raises(AlreadyExistsError, match=r"mine\.json exists"):
        found.save(path)


def test_wrong_destinations_are_refused(path: Path) -> None:
    found = LearnedScales.load(path)
    with pytest.raises(ArtefactError, match=r"scales are saved as \*\.safetensors"):
        found.save(path.with_suffix(".npz"))
    with pytest.raises(ArtefactError, match=r"the folder .*absent does not exist"):
        found.save(path.parent / "absent" / "mine.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_missing_files_are_named(path: Path, suffix: str) -> None:
    path.with_suffix(suffix).unlink()
    with pytest.raises(ArtefactMissingFileError, match=rf"mine\{suffix}: there is no such file"):
        resolve_scales(str(path), F23)


def test_altered_scales_are_refused(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtefactCorruptError, match=r"mine\.safetensors was altered: its SHA-256"):
        resolve_scales(str(path), F23)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", ArtefactCorruptError, "does not say how"),
        ("[]", ArtefactCorruptError, "does not say how"),
        ("\udcff", ArtefactCorruptError, "does not say how"),
        ({"schema_version": 2}, ArtefactVersionError, "schema_version is 2, .* upgrade wqtvm"),
        ({"schema_version": "1"}, ArtefactCorruptError, "schema_version is '1'"),
        ({"provenance": {}}, ArtefactCorruptError, "KeyError: 'points'"),
        ({"provenance": {"points": []}}, ArtefactCorruptError, "TypeError: .*missing"),
        ({"sha256": 3}, ArtefactCorruptError, "was altered"),
    ],
)
def test_wrong_provenance_is_refused(
    path: Path, text: object, error: type[Exception], message: str
) -> None:
    beside = path.with_suffix(".json")
    if isinstance(text, dict):
        text = json.dumps({**json.loads(beside.read_text()), **text})
    assert isinstance(text, str)
    beside.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(error, match=message):
        LearnedScales.load(path)


def test_a_file_of_something_else_is_refused(path: Path) -> None:
    import hashlib

    import numpy as np
    from safetensors.numpy import save

    beside = path.with_suffix(".json")
    for content in (save({"s_b": np.ones(4)}), save({"s_b": np.ones(4), "s_g": np.zeros(4)}), b""):
        path.write_bytes(content)
        document = json.loads(beside.read_text())
        beside.write_text(json.dumps({**document, "sha256": hashlib.sha256(content).hexdigest()}))
        with pytest.raises(ArtefactCorruptError, match="it holds no scales"):
            LearnedScales.load(path)


def test_scales_for_another_algorithm_are_refused(path: Path) -> None:
    with pytest.raises(AlgorithmError, match=r"for F\(2,3\) \(points: 0, .*\), not for F\(4"):
        resolve_scales(str(path), winograd(4))
