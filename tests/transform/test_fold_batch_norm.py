from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm.relax.transform import DeadCodeElimination
from tvm.script import ir as I
from tvm.script import relax as R

from wqtvm.errors import NonFiniteError
from wqtvm.frontend.names import bindings
from wqtvm.transform.fold_batch_norm import fold_batch_norm

EPSILON = 1e-3
generator = np.random.default_rng(0)


def random(*shape: int, low: float = -1.0) -> np.ndarray:
    return generator.uniform(low, 1.0, shape).astype(np.float32)


def constant(array: np.ndarray):
    return tvm.relax.const(array.astype(np.float32), "float32")


WEIGHT, BIAS = random(4, 3, 3, 3), random(4)
GAMMA, BETA, MEAN, VARIANCE = random(4), random(4), random(4), random(4, low=0.1)

SCALE = GAMMA / np.sqrt(VARIANCE.astype(np.float64) + EPSILON)
SHIFT = BETA - MEAN * SCALE

weight, gamma, beta, mean, variance = map(constant, (WEIGHT, GAMMA, BETA, MEAN, VARIANCE))
bias = constant(BIAS.reshape(1, 4, 1, 1))
folded_weight = constant(WEIGHT * SCALE.reshape(4, 1, 1, 1))
folded_bias = constant((SHIFT + BIAS * SCALE).reshape(1, 4, 1, 1))
scale, shift = constant(SCALE.reshape(1, 4, 1, 1)), constant(SHIFT.reshape(1, 4, 1, 1))


def transformed(module: tvm.IRModule) -> tvm.IRModule:
    return DeadCodeElimination()(fold_batch_norm(module))


def test_convolution_with_bias():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight, padding=1)
                biased = R.add(conv, bias)
                norm = R.nn.batch_norm(
                    biased, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = R.nn.relu(norm[0])
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, folded_weight, padding=1)
                biased = R.add(conv, folded_bias)
                y = R.nn.relu(biased)
                R.output(y)
            return y

    after = transformed(Before)
    tvm.ir.assert_structural_equal(after, Expected)
    assert bindings(after["main"])[0].var.name == "conv"


def test_convolution_without_bias():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                norm = R.nn.batch_norm(
                    conv, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = norm[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, folded_weight)
                y = R.add(conv, shift)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


TURNED = WEIGHT.transpose(1, 0, 2, 3)
turned_weight = constant(TURNED)
folded_turned_weight = constant(TURNED * SCALE.reshape(1, 4, 1, 1))


def test_transposed_convolution():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 10, 10), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d_transpose(x, turned_weight)
                norm = R.nn.batch_norm(
                    conv, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = norm[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 10, 10), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d_transpose(x, folded_turned_weight)
                y = R.add(conv, shift)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


def test_convolution_with_another_user_keeps_its_weights():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                norm = R.nn.batch_norm(
                    conv, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = R.add(norm[0], conv)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                scaled = R.multiply(conv, scale)
                shifted = R.add(scaled, shift)
                y = R.add(shifted, conv)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


def test_biased_convolution_with_another_user_keeps_its_weights():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                biased = R.add(conv, bias)
                norm = R.nn.batch_norm(
                    biased, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = R.add(norm[0], biased)
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                biased = R.add(conv, bias)
                scaled = R.multiply(biased, scale)
                shifted = R.add(scaled, shift)
                y = R.add(shifted, biased)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


def test_after_an_activation_it_becomes_arithmetic():
    @I.ir_module
    class Before:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                active = R.nn.relu(x)
                norm = R.nn.batch_norm(
                    active, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = norm[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(x: R.Tensor((1, 4, 8, 8), "float32")) -> R.Tensor((1, 4, 8, 8), "float32"):
            with R.dataflow():
                active = R.nn.relu(x)
                scaled = R.multiply(active, scale)
                y = R.add(scaled, shift)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


def test_computed_weights_are_not_scaled():
    @I.ir_module
    class Before:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"), w: R.Tensor((4, 3, 3, 3), "float32")
        ) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, w)
                norm = R.nn.batch_norm(
                    conv, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = norm[0]
                R.output(y)
            return y

    @I.ir_module
    class Expected:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"), w: R.Tensor((4, 3, 3, 3), "float32")
        ) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, w)
                scaled = R.multiply(conv, scale)
                y = R.add(scaled, shift)
                R.output(y)
            return y

    tvm.ir.assert_structural_equal(transformed(Before), Expected)


def test_statistics_in_use_and_training_are_not_touched():
    @I.ir_module
    class Module:
        @R.function
        def main(
            x: R.Tensor((1, 3, 8, 8), "float32"),
        ) -> R.Tuple(R.Tensor((1, 4, 6, 6), "float32"), R.Tensor((4,), "float32")):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                training = R.nn.batch_norm(
                    conv, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=True
                )
                conv2 = R.nn.conv2d(x, weight)
                used = R.nn.batch_norm(
                    conv2, gamma, beta, mean, variance, axis=1, epsilon=EPSILON, training=False
                )
                y = R.add(training[0], used[0])
                z = (y, used[1])
                R.output(z)
            return z

    tvm.ir.assert_structural_equal(fold_batch_norm(Module), Module)


negative = constant(np.array([1.0, 2.0, -3.0, 1.0]))


def test_negative_variance_names_layer_and_channel():
    @I.ir_module
    class Module:
        @R.function
        def main(x: R.Tensor((1, 3, 8, 8), "float32")) -> R.Tensor((1, 4, 6, 6), "float32"):
            with R.dataflow():
                conv = R.nn.conv2d(x, weight)
                norm = R.nn.batch_norm(
                    conv, gamma, beta, mean, negative, axis=1, epsilon=EPSILON, training=False
                )
                y = norm[0]
                R.output(y)
            return y

    with pytest.raises(NonFiniteError, match=r"layer 'conv'.*scale is nan in channel 2 \(1 chan"):
        fold_batch_norm(Module)
