from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wqtvm import doctor
from wqtvm.cli import main
from wqtvm.runtime.artefact import load, read_manifest

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)))

class Two(Net):
    def forward(self, x, offset):
        return super().forward(x) + offset, x - offset

ready = Net()
number = 3

def fails():
    raise RuntimeError("no weights here")

def list_of_layers():
    return [nn.ReLU()]

def needs_arguments(width):
    return Net()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a module that has networks."""
    (tmp_path / "cli_nets.py").write_text(NETWORK)
    (tmp_path / "cli_broken.py").write_text("import something_that_is_not_installed\n")
    (tmp_path / "cli_raises.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delitem(sys.modules, "cli_nets", raising=False)
    return tmp_path


@pytest.fixture
def wqtvm(capsys):
    """Run the command line; returns exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return run


def network() -> torch.nn.Module:
    scope: dict[str, type[torch.nn.Module]] = {}
    exec(NETWORK, scope)
    return scope["Net"]()


COMPILE = ("compile", "cli_nets:Net", "--input", "1x3x12x10", "-o", "net.wq")


def refused(result: tuple[int, str, str], message: str) -> None:
    """Check for exit code 2 and one line of message."""
    code, out, err = result
    assert code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert re.search(message, err), err


def test_compile_then_run(wqtvm, folder):
    code, out, err = wqtvm(*COMPILE)
    assert code == 0, err
    assert "Compiling cli_nets:Net for wq/" in err
    assert "weights as the factory gives them" in err
    for stage in ("import", "plan", "quantize", "build", "link"):
        assert re.search(rf"^  {stage}: \d+ of \d+, ", err, re.MULTILINE)
    assert re.search(r"first +1x3x12x10 +8x3x3x3 +F\(4,3\) +hadamard +eligible", out)
    assert re.search(r"last +1x8x12x10 +3x8x1x1 +float +kernel-size", out)
    assert "Wrote net.wq" in err

    x = np.random.default_rng(0).standard_normal((1, 3, 12, 10), dtype=np.float32)
    np.save("x.npy", x)
    code, out, err = wqtvm("run", "net.wq", "--input", "x.npy", "--output", "y.npy", "--runs", "3")
    assert code == 0, err
    assert re.search(r"takes +x: float32\[1, 3, 12, 10\] +x\.npy", out)
    assert re.search(r"gives +output: float32\[1, 3, 12, 10\] +y\.npy", out)
    assert re.search(r"ms, median of 3 after a first run of .* threads, target wq/", out)
    assert np.array_equal(np.load("y.npy"), load("net.wq")(x))
    names = {path.name for path in folder.iterdir()} - {"__pycache__"}
    assert names == {"cli_nets.py", "cli_broken.py", "cli_raises.py", "net.wq", "x.npy", "y.npy"}


def test_compile_with_others_direct(wqtvm):
    code, out, err = wqtvm(*COMPILE, "--others", "direct")
    assert code == 0, err
    assert re.search(r"last +1x8x12x10 +3x8x1x1 +direct +hadamard +kernel-size", out)


def test_compile_with_a_budget(wqtvm):
    code, out, err = wqtvm(*COMPILE, "--algorithm", "auto", "--max-loss-db", "0.5")
    assert code == 0, err
    assert re.search(r"predicted ms +reason", out)
    assert re.search(r"first .* \d\S* +accuracy-budget", out)
    assert re.search(r"last .* accuracy-budget", out)
    code, _, err = wqtvm(*COMPILE, "--overwrite", "--max-loss-db", "0.5")
    assert code == 2
    assert "max_loss_db is 0.5, but algorithm is 'winograd'" in err


def test_every_option_of_the_configuration(wqtvm):
    code, _, err = wqtvm(
        *COMPILE, "--tile", "2", "--points", "0,1,-1", "--precision", "full", "--group-size", "64",
        "--scales", "row-norm", "--steps", "tile", "--include", "f*", "--exclude", "la?t",
        "--target", "wq/x86-avx2", "--others", "direct", "--weight-steps", "filter", "--quiet",
    )  # fmt: skip
    assert code == 0, err
    assert err == ""
    manifest = read_manifest("net.wq")
    assert manifest.target == "wq/x86-avx2"
    config = manifest.config
    assert (config.tile, config.points, config.precision) == (2, ("0", "1", "-1"), "full")
    assert (config.group_size, config.scales, config.steps) == (64, "row-norm", "tile")
    assert (config.others, config.weight_steps) == ("direct", "filter")
    assert (config.include, config.exclude) == (("f*",), ("la?t",))
    assert manifest.plan.layer("first").tile == 2


def test_a_rectangle(wqtvm):
    code, _, err = wqtvm(*COMPILE, "--tile", "4x2", "--quiet")
    assert code == 0, err
    manifest = read_manifest("net.wq")
    assert manifest.config.tile == manifest.plan.layer("first").tile == (4, 2)


def test_weights_from_a_file(wqtvm):
    torch.manual_seed(1)
    model = network()
    weights = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    save_file(weights, "weights.safetensors")
    code, _, err = wqtvm(*COMPILE, "--weights", "weights.safetensors", "--algorithm", "float")
    assert code == 0, err
    model.load_state_dict(weights)
    x = torch.randn(1, 3, 12, 10)
    # 80 products of about 1 a value, summed in float32 in another order.
    torch.testing.assert_close(load("net.wq")(x), model(x), rtol=1e-5, atol=1e-4)


def test_existing_artefact_stays(wqtvm, folder):
    (folder / "net.wq").mkdir()
    refused(wqtvm(*COMPILE), r"net\.wq exists; .*--overwrite")
    refused(wqtvm(*COMPILE, "--overwrite"), r"net\.wq is not an artefact")
    (folder / "net.wq").rmdir()
    assert wqtvm(*COMPILE)[0] == 0
    before = read_manifest("net.wq")
    refused(wqtvm(*COMPILE, "--tile", "2"), r"exists")
    assert read_manifest("net.wq") == before
    assert wqtvm(*COMPILE, "--tile", "2", "--overwrite")[0] == 0
    assert read_manifest("net.wq").config.tile == 2


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("cli_nets", r"factory is 'cli_nets'; give package\.module:factory"),
        ("cli_nets:", r"give package\.module:factory"),
        ("cli_nowhere:Net", r"there is no module 'cli_nowhere'; run the command in the folder"),
        ("cli_broken:Net", r"there is no module 'something_that_is_not_installed'"),
        ("cli_raises:Net", r"importing cli_raises failed: ZeroDivisionError: division by zero"),
        ("cli_nets:Nett", r"has no 'Nett'; is it misspelt\?"),
        ("cli_nets:number", r"cli_nets:number is 3; give a function or a class"),
        ("cli_nets:fails", r"called without arguments, failed: RuntimeError: no weights here"),
        ("cli_nets:needs_arguments", r"called without arguments, failed: TypeError"),
        ("cli_nets:list_of_layers", r"made a list; it has to return a torch\.nn\.Module"),
    ],
)
def test_wrong_factory(wqtvm, factory, message):
    refused(wqtvm("compile", factory, "--input", "1x3x8x8", "-o", "net.wq", "--quiet"), message)


def test_factory_may_be_a_network(wqtvm):
    code, _, err = wqtvm("compile", "cli_nets:ready", "--input", "1x3x8x8", "-o", "net.wq")
    assert code == 0, err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, r"weights.*: there is no such file"),
        (lambda w: w.pop("last.bias"), r"it lacks last\.bias; are they for this model\?"),
        (lambda w: w.update(x=torch.zeros(1)), r"the model has no x"),
        (
            lambda w: w.update({"last.bias": torch.zeros(4)}),
            r"of another shape are last\.bias \[4\], not \[3\]",
        ),
        (
            lambda w: [w.update({f"extra{i}": torch.zeros(1)}) for i in range(9)],
            r"no extra0, extra1, extra2, extra3 and 5 more",
        ),
    ],
)
def test_wrong_weights(wqtvm, change, message):
    if change is not None:
        weights = dict(network().state_dict())
        change(weights)
        save_file(weights, "weights.safetensors")
    refused(wqtvm(*COMPILE, "--weights", "weights.safetensors", "--quiet"), message)


def test_weights_of_another_format(wqtvm, folder):
    torch.save({}, "weights.pth")
    refused(
        wqtvm(*COMPILE, "--weights", "weights.pth", "--quiet"), r"no safetensors file .*save_file"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--input", "1x3x"), r"input '1x3x': there is no such file; give a shape"),
        (("--input", "1x3x8x8:float64"), r"dtype is float64; give one of float32, int32"),
        (("--input", "1x3x8x8=e"), r"'e' is no number"),
        (("--input", "1x4x8x8"), r"does not accept the example inputs"),
        (("--input", "1x3x8x8", "--target", "wq/x86-vni"), r"Did you mean 'wq/x86-vnni'\?"),
        (("--input", "1x3x8x8", "--include", "body*"), r"include pattern 'body\*' matches no"),
        (("--input", "1x3x8x8", "--group-size", "3"), r"group_size is 3; give"),
        (("--input", "1x3x8x8", "--points", "0,1,x"), r"x"),
        (("--input", "1x3x8x8", "--algorithm", "auto", "--peaks", "no.json"), r"peaks no.json: .*"),
        (("--input", "1x3x8x8", "--peaks", "no.json"), r"give algorithm 'auto', or no peaks"),
        (("--input", "1x3x8x8", "--tile", "7"), r"tile is 7; give one of 2, 3, 4, 5, 6"),
        (("--input", "1x3x8x8", "--tile", "4x"), r"tile is '4x'; give one of 2, 3, 4, 5, 6"),
        (("--input", "1x3x8x8", "--tile", "4x2", "--points", "0,1"), r"for square tiles"),
    ],
)
def test_wrong_options(wqtvm, arguments, message):
    refused(wqtvm("compile", "cli_nets:Net", "-o", "net.wq", "--quiet", *arguments), message)
    assert not Path("net.wq").exists()


def test_usage_errors_come_from_click(wqtvm):
    code, _, err = wqtvm("compile", "cli_nets:Net", "--input", "1x3x8x8", "--precision", "half")
    assert code == 2
    assert "'half' is not one of 'full', 'hadamard'" in err


def test_run_takes_images_numbers_and_noise(wqtvm, folder):
    from PIL import Image

    arguments = ("--input", "1x3x6x8", "--input", "1x1x1x1")
    assert wqtvm("compile", "cli_nets:Two", *arguments, "-o", "two.wq")[0] == 0
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("in.png")
    code, out, err = wqtvm(
        "run", "two.wq", "--input", "in.png", "--input", "0.25",
        "--output", "y.npy", "--output", "out.png",
    )  # fmt: skip
    assert code == 0, err
    assert re.search(r"takes +offset: float32\[1, 1, 1, 1\] +0\.25", out)
    difference = (pixels / np.float32(255) - np.float32(0.25)).clip(0, 1)
    # Half a step of rounding, and of float32's before it.
    assert np.abs(np.asarray(Image.open("out.png")) / 255 - difference).max() <= 0.5001 / 255
    assert np.load("y.npy").shape == (1, 3, 6, 8)

    code, first, err = wqtvm("run", "two.wq", "--quiet", "--output", "1.npy", "--seed", "7")
    assert (code, first, err) == (0, "", "")
    assert wqtvm("run", "two.wq", "--output", "2.npy", "--seed", "7")[0] == 0
    assert wqtvm("run", "two.wq", "--output", "3.npy", "--seed", "8")[0] == 0
    assert np.array_equal(np.load("1.npy"), np.load("2.npy"))
    assert not np.array_equal(np.load("1.npy"), np.load("3.npy"))


def test_run_refuses(wqtvm, folder):
    assert wqtvm(*COMPILE)[0] == 0
    np.save("small.npy", np.zeros((1, 3, 4, 4), np.float32))
    np.save("objects.npy", np.array([object()]), allow_pickle=True)
    np.savez("archive.npz", x=np.zeros(1))
    (folder / "not.npy").write_text("x")
    (folder / "not.png").write_text("x")
    run = ("run", "net.wq")
    refused(wqtvm("run", "nowhere.wq"), r"nowhere\.wq does not exist")
    refused(wqtvm(*run, "--input", "small.npy"), r"'x' has shape \[1, 3, 4, 4\]")
    refused(wqtvm(*run, "--input", "0", "--input", "0"), r"2 inputs are given; the network takes x")
    refused(wqtvm(*run, "--input", "nowhere.npy"), r"there is no such file; give `random`")
    refused(wqtvm(*run, "--input", "objects.npy"), r"objects\.npy.*allow_pickle=False")
    refused(wqtvm(*run, "--input", "archive.npz"), r"is an archive of arrays")
    refused(wqtvm(*run, "--input", "not.npy"), r"not\.npy")
    refused(wqtvm(*run, "--input", "not.png"), r"not\.png")
    refused(wqtvm(*run, "--output", "small.npy"), r"small\.npy exists; .*--overwrite")
    refused(wqtvm(*run, "--output", "y.txt"), r"suffix is '\.txt'; give \.npy or \.png")
    refused(wqtvm(*run, "--output", "no/y.npy"), r"the folder no does not exist")
    refused(wqtvm(*run, "--output", "a.npy", "--output", "b.npy"), r"2 output files are given")
    refused(wqtvm(*run, "--threads", "100000"), r"number of threads is 100000")
    code, _, _ = wqtvm(*run, "--output", "small.npy", "--overwrite")
    assert code == 0
    assert np.load("small.npy").shape == (1, 3, 12, 10)


def test_report(wqtvm):
    report = ("report", "cli_nets:Net", "--input", "1x3x12x10")
    code, table, err = wqtvm(*report)
    assert code == 0, err
    assert re.search(r"first +F\(4,3\) +\d+\.\d +\d+\.\d +worst", table)
    assert re.search(r"last +float +- +\d+\.\d", table)
    assert re.search(r"output +end to end +\d+\.\d", table)
    assert "compiled network: 1 of 1" in err
    code, out, err = wqtvm(*report, "--json")
    assert (code, err) == (0, "")
    measured = json.loads(out)
    assert measured["worst"] == "first"
    assert [layer["name"] for layer in measured["layers"]] == ["first", "last"]
    shown = re.search(r"output +end to end +(\S+)", table)
    assert shown is not None
    assert float(shown[1]) == pytest.approx(measured["outputs"][0]["sqnr_db"], abs=0.051)


def test_points(wqtvm):
    code, out, err = wqtvm("points")
    assert (code, err) == (0, "")
    assert re.search(r"F\(4,3\) +0 2/3 -2/3 3/2 -3/2 inf +4\.00 +97 +13\.56 +5\.63 +4\.03 ", out)
    assert re.search(r"SFC-4\(4,3\) +2\.94 +2 +3\.43 +1\.59 ", out)
    code, out, _ = wqtvm("points", "--tile", "4", "--points", "0, 1,-1, 1/2,-2", "--json")
    (row,) = json.loads(out)
    assert row["noise_gain_db"]["0"] == pytest.approx(16.83, abs=0.006)
    search = ("points", "--tile", "4", "--search", "--complex", "i", "--correlation", "0.9", "-q")
    code, out, err = wqtvm(*search)
    assert (code, err) == (0, "")
    assert re.search(r"0 1 -1 i inf +2\.94 ", out.splitlines()[3])
    refused(wqtvm("points", "--search"), "tile is not given")
    refused(wqtvm("points", "--tile", "4", "--search", "--points", "best"), "either --points or")
    refused(wqtvm("points", "--tile", "4", "--points", "0,x"), "'x' is not a rational number nor")


def test_doctor(wqtvm, monkeypatch):
    code, out, err = wqtvm("doctor")
    assert (code, err) == (0, "")
    assert re.search(r"wq/x86-vnni +(yes|no)", out)
    code, out, _ = wqtvm("doctor", "--json")
    diagnosis = json.loads(out)
    assert code == 0
    assert diagnosis["problems"] == []
    assert wqtvm("doctor", "--quiet") == (0, "", "")

    monkeypatch.setattr(doctor, "_wrong_versions", lambda: ["apache-tvm-ffi is 0.1.15"])
    code, out, _ = wqtvm("doctor", "--quiet")
    assert code == 1
    assert "problem: apache-tvm-ffi is 0.1.15" in out


def test_internal_errors_are_named_and_traced_on_request(wqtvm, monkeypatch):
    def broken() -> None:
        raise KeyError("oops")

    monkeypatch.setattr(doctor, "examine", broken)
    code, _, err = wqtvm("doctor")
    assert code == 1
    assert err == "internal error: KeyError: 'oops' (details: --debug)\n"
    code, _, err = wqtvm("doctor", "--debug")
    assert code == 1
    assert "Traceback" in err
    code, _, err = wqtvm("run", "nowhere.wq", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_help_teaches(wqtvm):
    code, out, _ = wqtvm("--help")
    assert code == 0
    for command in ("compile", "run", "report", "points", "doctor", "demo"):
        assert f"\n  {command} " in out
        code, text, _ = wqtvm(command, "--help")
        assert code == 0
        if command != "doctor":
            assert f"Examples:\n  wqtvm {command}" in text.replace("\n    ", "\n  ")
    assert wqtvm("--version")[1].startswith("wqtvm, version ")


def test_help_imports_nothing_heavy():
    script = (
        "import sys\n"
        "from wqtvm.cli import main\n"
        "try: main(['compile', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'tvm', 'tvm_ffi'} & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, stdout=subprocess.DEVNULL
    )


SLOW = """
import time
from cli_nets import Net

def make():
    print("ready", flush=True)
    time.sleep(60)
    return Net()
"""


def test_interrupt_leaves_nothing(folder):
    (folder / "cli_slow.py").write_text(SLOW)
    command = [sys.executable, "-m", "wqtvm", *COMPILE]
    command[command.index("cli_nets:Net")] = "cli_slow:make"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Jobs in the background of a shell ignore the signal, and so would what they start.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, preexec_fn=heed, **pipes) as p:
        assert p.stdout.readline() == "ready\n"
        time.sleep(0.1)
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=60)
    assert p.returncode == 130
    assert err.strip().endswith("interrupted: nothing half-written is left behind")
    assert "Traceback" not in err
    assert not [path for path in folder.iterdir() if ".wq" in path.name]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_colours_only_where_they_are_wanted(no_color, coloured, folder):
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = no_color
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "wqtvm", "run", "nowhere.wq"]
    with subprocess.Popen(command, stdout=slave, stderr=slave, env=environment) as process:
        process.wait(timeout=60)
    os.close(slave)
    shown = os.read(master, 4096).decode()
    os.close(master)
    assert "does not exist" in shown
    assert ("\x1b[" in shown and "31m" in shown) == coloured


def test_reader_of_a_pipe_may_leave():
    command = f"{sys.executable} -m wqtvm doctor --json | head -c 1; echo ${{PIPESTATUS[0]}}"
    finished = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert finished.stdout == "{0\n"
    assert finished.stderr == ""
