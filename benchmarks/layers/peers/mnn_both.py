"""MNN's convolution in static int8, and in float32 by Winograd.

MNN's own tools make the models, from ONNX, by its native module: importing ``MNN.tools`` would
install a package for telemetry into whatever Python has the first pip on the path.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from MNN import expr, nn
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .base import CannotRunError, Problem, Setting, Variant
from .qdq import geometry

# It reads its calibration data from text: larger images are cropped to so many values.
CALIBRATION_VALUES = 1 << 20
SECONDS = 300  # for one of the tools
TOOL = "import sys, _tools; getattr(_tools, sys.argv[1])(sys.argv[1:])"


class Convolution:
    """float32 in and out for the user; in int8 the run quantizes and dequantizes."""

    def __init__(self, problem: Problem, kind: str, threads: int) -> None:
        planes = problem.x.transpose(0, 3, 1, 2)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            model = float_model(problem, folder)
            if kind == "int8":
                model = quantized_model(planes, model, folder)
            settings = {"backend": "CPU", "numThread": threads}
            self.manager = nn.create_runtime_manager((settings,))
            self.net = nn.load_module_from_file(
                str(model), ["x"], ["y"], runtime_manager=self.manager
            )
        x = expr.const(np.ascontiguousarray(planes), list(planes.shape), expr.NCHW)
        self.x = expr.convert(x, expr.NC4HW4)
        self.x.read()  # converts it now, not in the first run

    def run(self) -> None:
        """Compute the layer once."""
        self.y = self.net.forward(self.x)

    def output(self) -> NDArray[np.float32]:
        """Return the last run's result, see ``Runner``."""
        y = expr.convert(self.y, expr.NCHW)
        return np.array(y.read()).reshape(y.shape).transpose(0, 2, 3, 1)


def float_model(problem: Problem, folder: Path) -> Path:
    """Write the layer as a model of MNN, by way of ONNX, and return its path."""
    batch, height, width, channels = problem.x.shape
    planes, out = (
        [batch, channels, height, width],
        [problem.reference.shape[i] for i in (0, 3, 1, 2)],
    )
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight", "bias"], ["y"], **geometry(problem))],
        "convolution",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, planes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [
            numpy_helper.from_array(np.asarray(problem.weight), "weight"),
            numpy_helper.from_array(np.asarray(problem.bias), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    # The input stays in MNN's own packing, as between the layers of a network.
    return convert(model.SerializeToString(), folder, "--keepInputFormat=0")


def convert(model: bytes, folder: Path, *options: str) -> Path:
    """Write an ONNX model as one of MNN, and return its path."""
    source, result = folder / "float.onnx", folder / "float.mnn"
    source.write_bytes(model)
    options = ("--bizCode", "wqtvm", *options)
    tool("mnnconvert", result, "-f", "ONNX", "--modelFile", source, "--MNNModel", result, *options)
    return result


def quantized_model(
    planes: NDArray[np.float32], model: Path, folder: Path, method: str = "EMA"
) -> Path:
    """Calibrate by MNN's own tool and return the path; "EMA" is from least to largest value."""
    edge = int((CALIBRATION_VALUES / (planes.shape[0] * planes.shape[1])) ** 0.5)
    crop = planes if planes.size <= CALIBRATION_VALUES else planes[:, :, :edge, :edge]
    inputs = [{"name": "x", "shape": list(crop.shape)}]
    sample = folder / "calibration" / "sample"
    sample.mkdir(parents=True)
    np.ascontiguousarray(crop).tofile(sample / "x.txt", sep=" ", format="%.5g")
    (sample / "input.json").write_text(json.dumps({"inputs": inputs, "outputs": ["y"]}))
    settings = {
        "path": f"{sample.parent}/",
        "input_type": "sequence",
        "used_sample_num": 1,
        "batch_size": 1,
        "quant_bits": 8,
        "feature_quantize_method": method,
        "weight_quantize_method": "MAX_ABS",
        "inputs": inputs,
    }
    config, result = folder / "config.json", folder / "int8.mnn"
    config.write_text(json.dumps(settings))
    tool("mnnquant", result, model, result, config)
    return result


def tool(name: str, result: Path, *arguments: str | Path) -> None:
    """Run one of MNN's tools in a process of its own: it keeps state, and may crash.

    Raises
    ------
    CannotRunError
        If it does not write its result.
    """
    command = [sys.executable, "-c", TOOL, name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    if not result.exists():
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise CannotRunError(f"MNN's {name} makes no model: {' '.join(last)}")


def prepare(variant: Variant, problem: Problem, setting: Setting) -> Convolution:
    """Make a layer ready, see ``Runner``."""
    return Convolution(problem, variant.kind, setting.threads)
