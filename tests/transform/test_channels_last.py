from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from wqtvm.errors import UnscheduledOperatorError
from wqtvm.frontend import name_layers
from wqtvm.frontend.names import CONVOLUTION_OPS, bindings, operator_name
from wqtvm.transform.channels_last import channels_last

OIHW = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype(np.float32)


def constant(array: np.ndarray):
    return relax.const(np.ascontiguousarray(array), array.dtype.name)


blocked = constant(OIHW.transpose(2, 3, 1, 0)[None, None])
weight, weight_hwio = constant(OIHW), constant(OIHW.transpose(2, 3, 1, 0))
bias = constant(OIHW[0, :, :1, :1][None])
bias_nhwc = constant(OIHW[0, :, 0, 0].reshape(1, 1, 1, 4))


def convolutions(module: tvm.IRModule) -> dict[str, list[str]]:
    return {
        binding.var.name: [
            str(binding.value.attrs.data_layout),
            str(binding.value.attrs.kernel_layout),
        ]
        for binding in bindings(module["main"])
        if operator_name(binding.value) in CONVOLUTION_OPS
    }


def test_only_the_ends_are_permuted():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight, padding=1)
                biased = R.add(conv, bias)
                active = R.nn.leakyrelu(biased, 0.1)
                conv2 = R.nn.conv2d(active, weight, padding=1)
                z = R.add(conv2, biased)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                nhwc = R.permute_dims(x, (0, 2, 3, 1))
                conv = R.nn.conv2d(
                    nhwc,
                    weight_hwio,
                    padding=1,
                    data_layout="NHWC",
                    kernel_layout="HWIO",
                )
                biased = R.add(conv, bias_nhwc)
                active = R.nn.leakyrelu(biased, 0.1)
                conv2 = R.nn.conv2d(
                    active,
                    weight_hwio,
                    padding=1,
                    data_layout="NHWC",
                    kernel_layout="HWIO",
                )
                total = R.add(conv2, biased)
                z = R.permute_dims(total, (0, 3, 1, 2))
                R.output(z)
            return z

    names = {"conv": "body.0", "conv2": "body.2"}
    after = channels_last(name_layers(Before, names))
    tvm.ir.assert_structural_equal(after, Expected)
    assert convolutions(after) == {"body.0": ["NHWC", "HWIO"], "body.2": ["NHWC", "HWIO"]}


def test_transposed_convolution_stays_nchw():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 10, 10), "float32"):
            with R.dataflow():
                z = R.nn.conv2d_transpose(x, weight)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(channels_last(Module), Module)


def test_network_without_convolutions_is_left_alone():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                z = R.nn.relu(x)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(channels_last(Module), Module)


def test_channels_last_twice_is_channels_last_once():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight, padding=1)
                z = R.nn.relu(conv)
                R.output(z)
            return z

    once = channels_last(Module)
    tvm.ir.assert_structural_equal(channels_last(once), once)


def test_layout_that_nothing_implements_names_the_layer():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 1, 8, 8, 4), "float32")) -> R.Tensor((1, 1, 6, 6, 4), "float32"):
            with R.dataflow():
                stem = R.nn.conv2d(x, blocked, data_layout="NCHW4c", kernel_layout="OIHW4i4o")
                z = R.nn.relu(stem)
                R.output(z)
            return z

    # LegalizeOps skips such a convolution without a word.
    with pytest.raises(UnscheduledOperatorError, match="layer 'stem' has the layouts"):
        channels_last(Module)


def test_output_in_another_layout_than_the_input():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 6, 6, 4), "float32"):
            with R.dataflow():
                stem = R.nn.conv2d(x, weight, data_layout="NCHW", out_layout="NHWC")
                z = R.nn.relu(stem)
                R.output(z)
            return z

    assert convolutions(channels_last(Module)) == {"stem": ["NHWC", "HWIO"]}


def test_a_layer_that_is_the_output_keeps_its_name():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                first = R.nn.conv2d(x, weight, padding=1)
                last = R.nn.conv2d(first, weight, padding=1)
                R.output(last)
            return last

    assert set(convolutions(channels_last(name_layers(Before)))) == {"first", "last"}
