from __future__ import annotations

import numpy as np
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from wqtvm.frontend import name_layers
from wqtvm.frontend.names import bindings
from wqtvm.transform.sink_permutes import sink_permutes

NCHW = np.arange(4, dtype=np.float32).reshape(4, 1, 1)


def constant(array: np.ndarray):
    return relax.const(np.ascontiguousarray(array), array.dtype.name)


channels = constant(NCHW)
channels_last = constant(NCHW.reshape(1, 1, 1, 4))
slope = constant(np.ones(4, dtype=np.float32))


def sunk(module: tvm.IRModule) -> tvm.IRModule:
    return relax.transform.DeadCodeElimination()(sink_permutes(module))


def test_elementwise_operators_pad_and_broadcast_run_on_the_base():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 4), "float32"), gate: R.Tensor((4, 1, 1), "float32")
        ) -> R.Tensor((1, 9, 6, 4), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                leaky = R.nn.leakyrelu(nchw, 0.1)
                clipped = R.clip(leaky, R.prim_value(0), R.prim_value(6))
                shifted = R.add(clipped, channels)
                chosen = R.where(R.greater(nchw, R.const(0.0)), shifted, leaky)
                gated = R.multiply(chosen, gate)
                active = R.nn.prelu(gated, slope, axis=1)
                padded = R.nn.pad(active, (0, 0, 0, 0, 1, 2, 0, 1))
                y = R.permute_dims(padded, (0, 2, 3, 1))
                z = R.nn.relu(y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 4), "float32"), gate: R.Tensor((4, 1, 1), "float32")
        ) -> R.Tensor((1, 9, 6, 4), "float32"):
            with R.dataflow():
                leaky = R.nn.leakyrelu(x, 0.1)
                clipped = R.clip(leaky, R.prim_value(0), R.prim_value(6))
                shifted = R.add(clipped, channels_last)
                positive = R.greater(x, R.const(0.0))
                chosen = R.where(positive, shifted, leaky)
                raised = R.reshape(gate, (1, 4, 1, 1))
                turned = R.reshape(raised, (1, 1, 1, 4))
                gated = R.multiply(chosen, turned)
                active = R.nn.prelu(gated, slope, axis=3)
                padded = R.nn.pad(active, (0, 0, 1, 2, 0, 1, 0, 0))
                z = R.nn.relu(padded)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Before), Expected)


def test_pixel_shuffle_stays_in_nhwc():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 8), "float32")) -> R.Tensor((1, 12, 10, 2), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                split = R.reshape(nchw, (1, 2, 2, 2, 6, 5))
                moved = R.permute_dims(split, (0, 1, 4, 2, 5, 3))
                merged = R.reshape(moved, (1, 2, 12, 10))
                y = R.permute_dims(merged, (0, 2, 3, 1))
                z = R.nn.relu(y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 8), "float32")) -> R.Tensor((1, 12, 10, 2), "float32"):
            with R.dataflow():
                split = R.reshape(x, (1, 6, 5, 2, 2, 2))
                moved = R.permute_dims(split, (0, 1, 4, 2, 5, 3))
                merged = R.reshape(moved, (1, 12, 10, 2))
                z = R.nn.relu(merged)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Before), Expected)


def test_image_to_tokens_and_back_costs_nothing():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 6, 5, 4), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                flat = R.reshape(nchw, (1, 4, 30))
                tokens = R.permute_dims(flat, (0, 2, 1))
                weights = R.nn.softmax(tokens)
                back = R.permute_dims(weights, (0, 2, 1))
                image = R.reshape(back, (1, 4, 6, 5))
                total = R.add(image, nchw)
                y = R.permute_dims(total, (0, 2, 3, 1))
                z = R.nn.relu(y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 6, 5, 4), "float32"):
            with R.dataflow():
                tokens = R.reshape(x, (1, 30, 4))
                weights = R.nn.softmax(tokens)
                image = R.reshape(weights, (1, 6, 5, 4))
                total = R.add(image, x)
                z = R.nn.relu(total)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Before), Expected)


def test_operators_with_an_nhwc_form():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 8, 8, 4), "float32")) -> R.Tensor((1, 8, 8, 8), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                norm = R.nn.group_norm(
                    nchw, slope, slope, num_groups=2, channel_axis=1, axes=[2, 3]
                )
                pooled = R.nn.max_pool2d(norm, (2, 2), (2, 2))
                resized = R.image.resize2d(pooled, (8, 8), layout="NCHW")
                joined = R.concat((resized, nchw), axis=1)
                y = R.permute_dims(joined, (0, 2, 3, 1))
                z = R.nn.relu(y)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 8, 8, 4), "float32")) -> R.Tensor((1, 8, 8, 8), "float32"):
            with R.dataflow():
                norm = R.nn.group_norm(x, slope, slope, num_groups=2, channel_axis=3, axes=[1, 2])
                pooled = R.nn.max_pool2d(norm, (2, 2), (2, 2), layout="NHWC")
                resized = R.image.resize2d(pooled, (8, 8), roi=(0.0, 0.0, 0.0, 0.0), layout="NHWC")
                joined = R.concat((resized, x), axis=3)
                z = R.nn.relu(joined)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Before), Expected)


def test_permutation_that_is_needed_is_emitted_once():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 4, 6, 5), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                weights = R.nn.softmax(nchw, axis=3)
                z = R.add(weights, nchw)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Module), Module)


def test_permutation_of_an_input_stays_before_elementwise_operators():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 4, 6, 5), "float32")) -> R.Tensor((1, 6, 5, 4), "float32"):
            with R.dataflow():
                nhwc = R.permute_dims(x, (0, 2, 3, 1))
                z = R.nn.leakyrelu(nhwc, 0.1)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Module), Module)


def test_two_full_tensors_of_different_layouts():
    @I.ir_module
    class Module:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 4), "float32"), y: R.Tensor((1, 4, 6, 5), "float32")
        ) -> R.Tensor((1, 4, 6, 5), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                z = R.add(nchw, y)
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Module), Module)


def test_names_stay():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 6, 5, 4), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                active = R.nn.prelu(nchw, slope, axis=1)
                y = R.permute_dims(active, (0, 2, 3, 1))
                z = R.nn.relu(y)
                R.output(z)
            return z

    named = name_layers(Module, {"active": "body.1.act"})
    assert [b.var.name for b in bindings(sunk(named)["main"])] == ["body.1.act", "z"]


def test_split_and_output():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 2, 6, 5), "float32"):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                parts = R.split(nchw, 2, axis=1)
                first = parts[0]
                gate = R.sigmoid(parts[1])
                z = R.multiply(first, gate)
                R.output(z)
            return z

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 6, 5, 4), "float32")) -> R.Tensor((1, 2, 6, 5), "float32"):
            with R.dataflow():
                parts = R.split(x, 2, axis=3)
                first = parts[0]
                second = parts[1]
                gate = R.sigmoid(second)
                product = R.multiply(first, gate)
                z = R.permute_dims(product, (0, 3, 1, 2))
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(sunk(Before), Expected)


def test_split_whose_tuple_is_used_as_a_whole():
    @I.ir_module
    class Module:
        @R.function
        def main(
            x: R.Tensor((1, 6, 5, 4), "float32"),
        ) -> R.Tuple(R.Tensor((1, 2, 6, 5), "float32"), R.Tensor((1, 2, 6, 5), "float32")):
            with R.dataflow():
                nchw = R.permute_dims(x, (0, 3, 1, 2))
                parts = R.split(nchw, 2, axis=1)
                R.output(parts)
            return parts

    tvm.ir.assert_structural_equal(sunk(Module), Module)
