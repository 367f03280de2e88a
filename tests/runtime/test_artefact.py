from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from wqtvm.errors import (
    AlreadyExistsError,
    ArtefactCorruptError,
    ArtefactError,
    ArtefactMissingFileError,
    ArtefactVersionError,
    ConfigError,
    MissingDependencyError,
    TargetNotRunnableError,
)
from wqtvm.runtime import artefact, cpu
from wqtvm.runtime.artefact import MANIFEST, load, read_manifest
from wqtvm.runtime.manifest import LIBRARY, WEIGHTS, FileRecord
from wqtvm.target import lookup

FILES = (MANIFEST, LIBRARY, WEIGHTS)


@pytest.fixture(scope="module")
def written(make_model, tmp_path_factory) -> Path:
    """An artefact that no test alters."""
    path = tmp_path_factory.mktemp("written") / "model.wq"
    make_model(seed=1).export(path)
    return path


@pytest.fixture
def copy(written, tmp_path) -> Path:
    """An artefact to alter."""
    return Path(shutil.copytree(written, tmp_path / "model.wq"))


def rewrite(folder: Path, **changes: object) -> None:
    """Write a manifest that is consistent, but says something else."""
    manifest = dataclasses.replace(read_manifest(folder), **changes)
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def record(path: Path) -> FileRecord:
    content = path.read_bytes()
    return FileRecord(len(content), hashlib.sha256(content).hexdigest())


def test_what_is_loaded_is_what_was_exported(make_model, written, image):
    model, loaded = make_model(seed=1), load(written)
    assert np.array_equal(loaded(image), model(image))
    for attribute in ("plan", "config", "target", "input_specs", "output_specs", "single_output"):
        assert getattr(loaded, attribute) == getattr(model, attribute)
    assert list(loaded.params) == list(model.params)
    for name, value in loaded.params.items():
        assert np.array_equal(value, model.params[name])


def test_folder_has_three_files_that_the_umask_rules(written):
    assert sorted(entry.name for entry in written.iterdir()) == sorted(FILES)
    umask = os.umask(0)
    os.umask(umask)
    assert written.stat().st_mode & 0o777 == 0o777 & ~umask


def test_manifest_is_readable_json(written):
    manifest = json.loads((written / MANIFEST).read_text())
    assert manifest["schema_version"] == 1
    assert manifest["target"]["name"] == lookup("wq").name
    assert manifest["inputs"] == [{"name": "x", "shape": [1, 3, 6, 5], "dtype": "float32"}]
    assert [p["name"] for p in manifest["parameters"]] == ["conv.weight", "conv.bias"]
    assert manifest["plan"]["layers"][0]["name"] == "conv"
    assert set(manifest["versions"]) == {"wqtvm", "tvm", "tvm_ffi"}


def test_loads_in_a_process_without_torch(written, make_model, image, tmp_path):
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "import numpy as np\n"
        "from wqtvm.runtime.artefact import load\n"
        f"x = np.load({str(tmp_path / 'x.npy')!r})\n"
        f"np.save({str(tmp_path / 'y.npy')!r}, load({str(written)!r})(x))\n"
    )
    np.save(tmp_path / "x.npy", image)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert np.array_equal(np.load(tmp_path / "y.npy"), make_model(seed=1)(image))


def test_damage_anywhere_is_found_before_the_library_is_loaded(written, tmp_path, monkeypatch):
    def never(path: Path) -> None:
        raise AssertionError(f"{path} was loaded")

    monkeypatch.setattr(artefact, "_load_library", never)
    contents = {name: (written / name).read_bytes() for name in FILES}

    def check(name: str, content: bytes) -> None:
        folder = tmp_path / "damaged.wq"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(written, folder)
        (folder / name).write_bytes(content)
        # A digit of the schema's version may turn into a later one.
        allowed = (ArtefactCorruptError, ArtefactVersionError)
        with pytest.raises(allowed, match=name.replace(".", r"\.")):
            load(folder)

    positions = st.floats(0, 1, exclude_max=True)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(FILES), positions, st.integers(1, 255))
    def flip(name: str, position: float, bits: int) -> None:
        content = bytearray(contents[name])
        content[int(position * len(content))] ^= bits
        check(name, bytes(content))

    @settings(max_examples=30)
    @given(st.sampled_from(FILES), positions)
    def truncate(name: str, position: float) -> None:
        check(name, contents[name][: int(position * len(contents[name]))])

    @settings(max_examples=15)
    @given(st.sampled_from(FILES), st.binary(min_size=1, max_size=8))
    def append(name: str, rest: bytes) -> None:
        check(name, contents[name] + rest)

    flip()
    truncate()
    append()
    for name in FILES:
        for other in set(FILES) - {name}:
            check(name, contents[other])


@pytest.mark.parametrize("name", FILES)
def test_missing_file(copy, name):
    (copy / name).unlink()
    with pytest.raises(ArtefactMissingFileError, match=f"{name} does not exist"):
        load(copy)


@pytest.mark.parametrize("name", FILES)
def test_links_and_things_that_are_no_files(copy, name):
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    outside = copy.parent / name
    outside.write_bytes(content)
    (copy / name).symlink_to(outside)
    with pytest.raises(ArtefactCorruptError, match=f"{name} is a link; copy the file itself"):
        load(copy)
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(ArtefactCorruptError, match=f"{name} is not a regular file"):
        load(copy)
    (copy / name).rmdir()
    os.mkfifo(copy / name)
    with pytest.raises(ArtefactCorruptError, match=f"{name} is not a regular file"):
        load(copy)


def test_what_is_no_artefact(tmp_path):
    with pytest.raises(ArtefactMissingFileError, match=r"nothing\.wq does not exist"):
        load(tmp_path / "nothing.wq")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match="file is not a folder"):
        load(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ArtefactMissingFileError, match=r"wqtvm\.json does not exist; .*no artefact"
    ):
        load(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "is a list, not an object"),
        (b"{}", "schema_version is None"),
        (b'{"schema_version": true}', "schema_version is True"),
        (b'{"schema_version": "1"}', "schema_version is '1'"),
        (b'{"schema_version": 1}', "was altered"),
        (b'{"schema_version": 1, "a": "\\ud800"}', "was altered"),
        (b'{"schema_version": 1, "a": NaN}', "was altered"),
    ],
)
def test_malformed_manifest(copy, content, message):
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(ArtefactCorruptError, match=message):
        load(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"plan": {}},
        {"config": {"tile": 77}},
        {"config": {"new": 1}},
        {"inputs": [{"name": "x", "shape": [1], "dtype": "float31"}]},
        {"inputs": [{"name": "x", "shape": [1], "dtype": None}]},
        {"inputs": None},
        {"files": {"../library.so": {"size": 1, "sha256": ""}}},
        {"target": "wq"},
    ],
)
def test_consistent_manifest_of_the_wrong_content(copy, change):
    document = json.loads((copy / MANIFEST).read_text())
    document.pop("sha256")
    document.update(change)
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    document["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / MANIFEST).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    with pytest.raises(ArtefactCorruptError, match=r"wqtvm\.json: it is no manifest"):
        load(copy)


def test_newer_schema(copy):
    (copy / MANIFEST).write_text('{"schema_version": 2, "something": "else"}')
    with pytest.raises(ArtefactVersionError, match="is 2, this wqtvm reads up to 1; upgrade"):
        load(copy)


def test_other_tvm(copy):
    rewrite(copy, versions={"tvm": "0.28.0"})
    with pytest.raises(ArtefactVersionError, match=r"with TVM 0\.28\.0, and this is"):
        load(copy)


def test_cpu_that_lacks_a_feature(copy, monkeypatch):
    rewrite(copy, features=("avx512_of_tomorrow",))
    monkeypatch.setattr(artefact, "_load_library", pytest.fail)
    with pytest.raises(TargetNotRunnableError, match=r"needs avx512_of_tomorrow"):
        load(copy)


def test_library_for_another_machine(copy, monkeypatch):
    rewrite(copy, machine="riscv64")
    monkeypatch.setattr(artefact, "_load_library", pytest.fail)
    with pytest.raises(TargetNotRunnableError, match=r"model\.wq is for riscv64, but this machine"):
        load(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv.bias"), r"is missing, .* conv.bias: float32\[1, 4, 1, 1\]"),
        (lambda t: t.update(x=np.zeros(2, "int8")), r"x: int8\[2\], .* there is no x"),
        (
            lambda t: t.update({"conv.bias": np.zeros((1, 4, 1, 1))}),
            r"conv.bias: float64\[1, 4, 1, 1\], .* conv.bias: float32",
        ),
        (
            lambda t: t.update({"conv.bias": np.zeros((4,), "float32")}),
            r"conv.bias: float32\[4\], .* conv.bias: float32\[1, 4, 1, 1\]",
        ),
    ],
)
def test_weights_that_are_not_the_manifests(copy, change, message):
    tensors = load_file(copy / WEIGHTS)
    change(tensors)
    save_file(tensors, copy / WEIGHTS)
    files = {name: record(copy / name) for name in (LIBRARY, WEIGHTS)}
    rewrite(copy, files=files)
    with pytest.raises(ArtefactCorruptError, match=message):
        load(copy)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (WEIGHTS, ArtefactCorruptError, "is no safetensors file"),
        (LIBRARY, ArtefactError, "cannot be loaded"),
    ],
)
def test_file_of_another_format_with_the_right_hash(copy, name, error, message):
    (copy / name).write_bytes(b"something else")
    rewrite(copy, files={name: record(copy / name) for name in (LIBRARY, WEIGHTS)})
    with pytest.raises(error, match=message):
        load(copy)


@pytest.mark.parametrize("what", ["file", "empty folder", "folder", "artefact", "broken link"])
def test_nothing_is_overwritten_unasked(make_model, written, tmp_path, what):
    path = tmp_path / "model.wq"
    if what == "file":
        path.write_text("precious")
    elif what == "broken link":
        path.symlink_to(tmp_path / "nowhere")
    elif what == "artefact":
        shutil.copytree(written, path)
    else:
        path.mkdir()
        if what == "folder":
            (path / "precious").write_text("")
    with pytest.raises(AlreadyExistsError, match=r"model\.wq exists; .*--overwrite"):
        make_model().export(path)
    if what == "artefact":
        make_model().export(path, overwrite=True)
    else:
        with pytest.raises(AlreadyExistsError, match="is not an artefact, so it is not replaced"):
            make_model().export(path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.wq"]


def test_overwriting_spares_other_files(make_model, copy):
    (copy / "notes.txt").write_text("precious")
    with pytest.raises(AlreadyExistsError, match=r"has other files, .*: notes\.txt; move them"):
        make_model().export(copy, overwrite=True)


def test_overwriting_while_the_old_one_is_in_use(make_model, copy, image):
    old = load(copy)
    before = old(image)
    make_model(seed=2).export(copy, overwrite=True)
    assert np.array_equal(load(copy)(image), make_model(seed=2)(image))
    assert np.array_equal(old(image), before)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
@pytest.mark.parametrize("exists", [False, True])
def test_interrupted_export_leaves_everything_as_it_was(
    make_model, written, tmp_path, monkeypatch, image, error, exists
):
    path = tmp_path / "model.wq"
    if exists:
        shutil.copytree(written, path)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(artefact, "_record", fail)
    wanted = KeyboardInterrupt if error is KeyboardInterrupt else ArtefactError
    with pytest.raises(wanted):
        make_model().export(path, overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.wq"] * exists
    if exists:
        assert np.array_equal(load(path)(image), make_model(seed=1)(image))


def test_old_artefact_comes_back_if_the_new_one_cannot_be_moved(
    make_model, copy, monkeypatch, image
):
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError("cannot move")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(ArtefactError, match="cannot be written: cannot move"):
        make_model(seed=2).export(copy, overwrite=True)
    assert np.array_equal(load(copy)(image), make_model(seed=1)(image))


@pytest.mark.parametrize(
    ("before", "message"),
    [("_record", r"model\.wq exists"), ("_move", "by someone else in the meantime")],
)
def test_someone_else_is_faster(make_model, tmp_path, monkeypatch, before, message):
    path = tmp_path / "model.wq"
    step = getattr(artefact, before)

    def meanwhile(*arguments: object) -> object:
        path.mkdir(exist_ok=True)
        (path / "theirs").write_text("")
        return step(*arguments)

    monkeypatch.setattr(artefact, before, meanwhile)
    with pytest.raises(AlreadyExistsError, match=message):
        make_model().export(path)
    assert [entry.name for entry in path.iterdir()] == ["theirs"]


def test_destination_in_no_folder(make_model, tmp_path):
    with pytest.raises(ArtefactError, match=r"no/model\.wq: the folder .*no does not exist; make"):
        make_model().export(tmp_path / "no" / "model.wq")


def test_path_in_any_form(make_model, tmp_path, monkeypatch, image):
    monkeypatch.chdir(tmp_path)
    make_model().export("model.wq/")
    (tmp_path / "latest").symlink_to("model.wq")
    monkeypatch.chdir(tmp_path / "model.wq")
    for path in (".", "../latest", tmp_path / "model.wq"):
        assert np.array_equal(load(path)(image), make_model()(image))
    with pytest.raises(AlreadyExistsError, match="is not an artefact"):
        make_model().export("../latest", overwrite=True)


def test_loaded_network_is_not_exported_again(written, tmp_path):
    with pytest.raises(ConfigError, match=r"loaded from an artefact; copy that folder"):
        load(written).export(tmp_path / "again.wq")


def test_without_a_compiler(make_model, tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match=r"no g\+\+ or .*; install one .* CXX"):
        make_model().export(tmp_path / "model.wq")
    assert not list(tmp_path.iterdir())


def test_compiler_that_fails(make_model, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ArtefactError, match=r"cannot be linked by .*false"):
        make_model().export(tmp_path / "model.wq")
    assert not list(tmp_path.iterdir())


def test_code_for_another_machine(make_model, tmp_path):
    model = make_model(target="wq/arm-neon")
    path = tmp_path / "model.wq"
    if shutil.which("aarch64-linux-gnu-g++") is None:
        with pytest.raises(MissingDependencyError, match=r"no aarch64-linux-gnu-g\+\+; install it"):
            model.export(path)
        return
    model.export(path)
    assert (path / LIBRARY).read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64
    with pytest.raises(TargetNotRunnableError, match="is for aarch64"):
        load(path)


def test_loading_asks_the_cpu_before_the_library(written, monkeypatch):
    monkeypatch.setattr(cpu, "cpu_features", frozenset)
    monkeypatch.setattr(artefact, "_load_library", pytest.fail)
    with pytest.raises(TargetNotRunnableError):
        load(written)
