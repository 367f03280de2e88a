"""Time the layers that stay float, one by one, against PyTorch, by 1 and 2 threads.

    python benchmarks/float_layers.py [--threads 1 2] [--rounds 9] [--only conv] [--patience 1]
                                      [--clock wall|cpu] [--images float16]

prints the tables of RESULTS.md. Images are NHWC and weights constant, as in the networks that wqtvm
compiles; PyTorch is given the faster of contiguous and channels-last tensors. The floor of a layer
is what its arithmetic takes at the peak of the cores (``benchmarks.peaks``), or its bytes at the
speed of a copy of as many bytes by the same threads, whichever is longer. Results are checked. A
row during which other processes took more than a tenth of a CPU is measured again, as often as
``--patience`` says, and has an asterisk if it never got quiet. On a busy machine ``--clock cpu``
counts the time that the process ran, which means something for one thread alone.

With ``--images`` the layers that only move memory are timed as they lie in a network whose images
are of 16 bits: they read and write such, and PyTorch is given tensors of the same dtype.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import peaks
import torch
import torch.nn.functional as F
import tvm
from machine import Others
from tvm import relax, te

import wqtvm
from wqtvm.demo.demo import same_threads
from wqtvm.doctor import examine
from wqtvm.schedules.narrow_parameters import CONVERSIONS
from wqtvm.target import lookup, usable_cpus
from wqtvm.transform.pack_weights import evaluate_packing
from wqtvm.transform.pipeline import finish, optimize
from wqtvm.versions import version

# Relative to the largest result: sums of a few thousand products, in another order than PyTorch's.
TOLERANCE = 2e-5
# With images in 16 bits: half a unit in the last place of the result, and as much of PyTorch's.
NARROW_TOLERANCE = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
# One measurement repeats a layer for so long, after half of that to warm up: threads that slept
# wake on one CPU, and it takes the system some milliseconds to give them one each.
SECONDS_PER_ROUND = 0.04
# PyTorch's threads spin for 200 ms after their work, and would hold a core that ours wait for.
PAUSE = 0.22

# Other processes may take this part of one CPU.
QUIET = 0.1

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

Build = Callable[..., relax.Expr]
Run = Callable[[], Any]
R, N = relax.op, relax.op.nn


@dataclass(frozen=True)
class Layer:
    """A layer in Relax and in PyTorch.

    Attributes
    ----------
    name : for the table.
    inputs : PyTorch's tensors, images in NCHW; then weights.
    build : the layer in Relax, images in NHWC and convolution weights in HWIO.
    run : the layer in PyTorch.
    flops : multiplications and additions.
    constants : the last so many inputs are weights, constant in a compiled network.
    """

    name: str
    inputs: tuple[torch.Tensor, ...]
    build: Build
    run: Callable[..., torch.Tensor]
    flops: float = 0.0
    constants: int = 0


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def convolution(
    channels: int, out: int, size: int, kernel: int, stride: int = 1, groups: int = 1
) -> Layer:
    pad = kernel // 2
    inputs = (
        random(1, channels, size, size),
        random(out, channels // groups, kernel, kernel) / kernel,
        random(out),
    )

    def build(x: relax.Expr, w: relax.Expr, b: relax.Expr) -> relax.Expr:
        y = N.conv2d(x, w, stride, pad, groups=groups, data_layout="NHWC", kernel_layout="HWIO")
        return R.add(y, b)

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, w, b, stride, pad, groups=groups)

    kind = "depthwise" if groups > 1 else "conv"
    name = f"{kind} {kernel}x{kernel} s{stride}, {channels} to {out}, {size} px"
    places = (size // stride) ** 2
    return Layer(name, inputs, build, run, 2.0 * places * out * kernel**2 * channels / groups, 2)


def linear(rows: int, columns: int, out: int) -> Layer:
    inputs = (random(rows, columns), random(columns, out), random(out))
    weights = inputs[1].T.contiguous()
    return Layer(
        f"linear {rows} x {columns} to {out}",
        inputs,
        lambda x, w, b: R.add(R.matmul(x, w), b),
        lambda x, _, b: F.linear(x, weights, b),
        2.0 * rows * columns * out,
        constants=2,
    )


def product(batch: int, rows: int, inner: int, columns: int, transposed: bool) -> Layer:
    second = (batch, columns, inner) if transposed else (batch, inner, columns)
    return Layer(
        f"attention {'q k^T' if transposed else 'a v'}, {batch} x {rows} x {inner} x {columns}",
        (random(batch, rows, inner), random(*second)),
        lambda a, b: R.matmul(a, R.permute_dims(b, [0, 2, 1]) if transposed else b),
        lambda a, b: a @ (b.transpose(1, 2) if transposed else b),
        2.0 * batch * rows * inner * columns,
    )


def elementwise(name: str, build: Build, run: Callable[..., torch.Tensor], count: int = 1) -> Layer:
    inputs = tuple(random(1, 64, 56, 56) for _ in range(count))
    return Layer(f"{name}, 64 x 56 px", inputs, build, run)


def normalisations() -> list[Layer]:
    image = random(1, 320, 32, 32)
    scale, shift = random(320), random(320)
    tokens = random(1024, 320)
    return [
        Layer(
            "group norm 32, 320 x 32 px",
            (image, scale, shift),
            lambda x, g, b: N.group_norm(x, g, b, 32, 3, [1, 2]),
            lambda x, g, b: F.group_norm(x, 32, g, b),
        ),
        Layer(
            "layer norm, 1024 x 320",
            (tokens, scale, shift),
            lambda x, g, b: N.layer_norm(x, g, b, [-1]),
            lambda x, g, b: F.layer_norm(x, (320,), g, b),
        ),
        Layer(
            "softmax, 2048 x 1024",
            (random(2048, 1024),),
            lambda x: N.softmax(x, -1),
            lambda x: F.softmax(x, -1),
        ),
        Layer(
            "softmax, 8192 x 77",
            (random(8192, 77),),
            lambda x: N.softmax(x, -1),
            lambda x: F.softmax(x, -1),
        ),
    ]


def pools_and_movements() -> list[Layer]:
    def shuffle(x: relax.Expr) -> relax.Expr:
        n, h, w, c = (int(extent) for extent in x.ty.shape)
        split = R.reshape(x, (n, h, w, c // 4, 2, 2))
        return R.reshape(R.permute_dims(split, [0, 1, 4, 2, 5, 3]), (n, 2 * h, 2 * w, c // 4))

    def unshuffle(x: relax.Expr) -> relax.Expr:
        n, h, w, c = (int(extent) for extent in x.ty.shape)
        split = R.reshape(x, (n, h // 2, 2, w // 2, 2, c))
        return R.reshape(R.permute_dims(split, [0, 1, 3, 5, 2, 4]), (n, h // 2, w // 2, 4 * c))

    def resize(x: relax.Expr) -> relax.Expr:
        return R.image.resize2d(
            x,
            relax.ShapeExpr([112, 112]),
            layout="NHWC",
            method="nearest_neighbor",
            coordinate_transformation_mode="asymmetric",
            rounding_method="floor",
        )

    image = random(1, 64, 56, 56)
    return [
        Layer(
            "global average pool, 320 x 28 px",
            (random(1, 320, 28, 28),),
            lambda x: R.mean(x, [1, 2], keepdims=True),
            lambda x: F.adaptive_avg_pool2d(x, 1),
        ),
        Layer(
            "max pool 3x3 s2, 64 x 112 px",
            (random(1, 64, 112, 112),),
            lambda x: N.max_pool2d(x, (3, 3), 2, 1, layout="NHWC"),
            lambda x: F.max_pool2d(x, 3, 2, 1),
        ),
        Layer("nearest x2, 64 x 56 px", (image,), resize, lambda x: F.interpolate(x, None, 2)),
        Layer(
            "concat 64 + 32, 56 px",
            (image, random(1, 32, 56, 56)),
            lambda a, b: R.concat([a, b], 3),
            lambda a, b: torch.cat([a, b], 1),
        ),
        Layer("pixel shuffle 2, 64 x 56 px", (image,), shuffle, lambda x: F.pixel_shuffle(x, 2)),
        Layer(
            "pixel unshuffle 2, 16 x 112 px",
            (random(1, 16, 112, 112),),
            unshuffle,
            lambda x: F.pixel_unshuffle(x, 2),
        ),
    ]


def layers() -> list[Layer]:
    return [
        convolution(64, 64, 56, 1),
        convolution(320, 320, 32, 1),
        convolution(320, 320, 64, 1),
        convolution(64, 64, 56, 3),
        convolution(128, 128, 28, 3),
        convolution(320, 320, 28, 3),
        convolution(256, 256, 14, 3),
        convolution(512, 512, 7, 3),
        convolution(320, 320, 64, 3),
        convolution(640, 640, 32, 3),
        convolution(1920, 640, 32, 3),
        convolution(1280, 1280, 16, 3),
        convolution(128, 128, 56, 3, stride=2),
        convolution(320, 320, 64, 3, stride=2),
        convolution(3, 64, 224, 7, stride=2),
        convolution(100, 33, 33, 3),
        convolution(64, 3, 64, 3),
        convolution(64, 64, 56, 3, groups=64),
        convolution(320, 320, 28, 3, groups=320),
        convolution(192, 192, 56, 3, stride=2, groups=192),
        linear(512, 512, 512),
        linear(4096, 320, 320),
        linear(1024, 1280, 1280),
        linear(1, 1280, 1280),
        product(8, 1024, 40, 1024, transposed=True),
        product(8, 1024, 1024, 40, transposed=False),
        product(8, 1024, 40, 77, transposed=True),
        product(8, 1024, 77, 40, transposed=False),
        elementwise("relu", N.relu, F.relu),
        elementwise("silu", N.silu, F.silu),
        elementwise("gelu", N.gelu, F.gelu),
        elementwise("add", R.add, torch.add, 2),
        *normalisations(),
        *pools_and_movements(),
    ]


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def to_relax(tensor: torch.Tensor, is_weight: bool) -> torch.Tensor:
    """NHWC, or HWIO for the weights of a convolution."""
    if tensor.ndim != 4:
        return tensor
    return tensor.permute((2, 3, 1, 0) if is_weight else (0, 2, 3, 1)).contiguous()


def narrowed(layer: Layer, images: str) -> Layer:
    """The layer that reads and writes images of a dtype; vectors are weights, and stay float32."""
    dtype, conversion = getattr(torch, images), CONVERSIONS[images]

    def build(*variables: relax.Expr) -> relax.Expr:
        wide = [
            each if each.ty.ndim == 1 else converted(each, "float32", conversion.widen)
            for each in variables
        ]
        return converted(layer.build(*wide), images, conversion.round)

    inputs = tuple(each if each.ndim == 1 else each.to(dtype) for each in layer.inputs)
    return replace(layer, inputs=inputs, build=build)


def converted(value: relax.Expr, dtype: str, convert: Callable[[Any], Any]) -> relax.Expr:
    """A conversion that is not fused with others, and so vanishes where images are of a dtype."""
    builder = relax.BlockBuilder.current()
    value = builder.normalize(value)
    x = te.placeholder([int(size) for size in value.ty.shape], value.ty.dtype, name="x")
    y = te.compute(x.shape, lambda *index: convert(x(*index)))
    function = te.create_prim_func([x, y], index_dtype_override="int64")
    function = function.without_attr("global_symbol").with_attr("op_pattern", 8)
    opaque = builder.add_func(function, "convert")
    return builder.emit(relax.call_tir(opaque, [value], relax.TensorType(value.ty.shape, dtype)))


def compiled(layer: Layer, images: str) -> Run:
    """Compile a layer for this machine and bind its inputs."""
    is_convolution = layer.name.startswith(("conv", "depthwise"))
    tensors = [to_relax(t, is_convolution and i == 1) for i, t in enumerate(layer.inputs)]
    builder = relax.BlockBuilder()
    variables = [
        relax.Var(f"input{i}", relax.TensorType(tensor.shape, str(tensor.dtype).split(".")[1]))
        for i, tensor in enumerate(tensors)
    ]
    with builder.function("main", variables):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(layer.build(*variables)))
        builder.emit_func_output(result)
    with builder.function("let_go", []):
        builder.emit_func_output(relax.Tuple([]))
    record = lookup("wq")
    target = tvm.target.Target(record.config(num_cores=usable_cpus()))
    module = builder.get()
    inputs = len(tensors) - layer.constants
    module.update_func(module.get_global_var("main"), module["main"].with_attr("num_input", inputs))
    weights = {str(i): tensor.numpy() for i, tensor in enumerate(tensors[inputs:])}
    with target:
        module, weights = evaluate_packing(optimize(module, record, images), weights)
        module = finish(module)
    executable = tvm.compile(module, target=target, relax_pipeline=None)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    main, let_go = machine["main"], machine["let_go"]
    values = [
        *(tvm.runtime.from_dlpack(tensor) for tensor in tensors[:inputs]),
        *(tvm.runtime.tensor(array) for array in weights.values()),
    ]

    def run() -> Any:
        # The machine holds what it returned last until it returns again: results would take turns
        # in two buffers, where PyTorch's come in one that is still in the cache.
        result = main(*values)
        let_go()
        return result

    return run


def check(layer: Layer, ours: torch.Tensor, images: str) -> None:
    expected = to_relax(layer.run(*layer.inputs), is_weight=False).float()
    error = (expected.reshape(ours.shape) - ours.float()).abs().max() / expected.abs().max()
    if not error <= NARROW_TOLERANCE.get(images, TOLERANCE):
        raise SystemExit(f"{layer.name}: relative error {error:.1e}; its time means nothing")


@dataclass(frozen=True)
class Clock:
    """How a table is measured: rounds of each layer, seconds of rest between, and what counts."""

    rounds: int
    pause: float
    now: Callable[[], float]


def medians(runs: Sequence[Run], clock: Clock) -> list[float]:
    """Median seconds of each, in turns."""
    repeats = []
    for run in runs:
        run()
        start = clock.now()
        run()
        repeats.append(1 + int(SECONDS_PER_ROUND / (clock.now() - start)))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(clock.rounds):
        for run, repeat, into in zip(runs, repeats, times, strict=True):
            time.sleep(clock.pause)
            for _ in range(1 + repeat // 2):
                run()
            start = clock.now()
            for _ in range(repeat):
                run()
            into.append((clock.now() - start) / repeat)
    return [statistics.median(each) for each in times]


def copy_bandwidth(nbytes: int, clock: Clock) -> float:
    """Bytes a second, read and written, of a copy between buffers of so many bytes together."""
    source = torch.zeros(max(1, nbytes // 8))
    to = torch.empty_like(source)
    return 8 * source.numel() / medians([lambda: to.copy_(source)], clock)[0]


def measure(layer: Layer, clock: Clock, peak: float, images: str) -> tuple[float, float, float]:
    """Seconds of a layer by wqtvm, by PyTorch, and at the floor."""
    ours = compiled(layer, images)
    result = torch.from_dlpack(ours())
    check(layer, result, images)
    last = tuple(channels_last(tensor) for tensor in layer.inputs)
    runs = [ours, partial(layer.run, *layer.inputs), partial(layer.run, *last)]
    seconds, *torch_seconds = medians(runs, clock)
    moved = sum(tensor.nbytes for tensor in (*layer.inputs, result))
    floor = moved / copy_bandwidth(moved, clock)
    return seconds, min(torch_seconds), max(floor, layer.flops / peak)


def table(chosen: Sequence[Layer], threads: int, clock: Clock, patience: int, images: str) -> None:
    print(f"{threads} threads, images in {images}, medians of {clock.rounds} rounds\n")
    peak = peaks.measure(threads).float32
    print("| layer | wqtvm, us | PyTorch, us | times PyTorch | floor, us | of the floor |")
    print("|---|---:|---:|---:|---:|---:|")
    for layer in chosen:
        for attempt in range(patience):
            with Others() as others:
                seconds, best, floor = measure(layer, clock, peak, images)
            if others.cpus <= QUIET:
                break
            time.sleep(attempt)
        mark = "" if others.cpus <= QUIET else "*"
        print(
            f"| {layer.name}{mark} | {1e6 * seconds:.0f} | {1e6 * best:.0f} "
            f"| {best / seconds:.2f} | {1e6 * floor:.0f} | {floor / seconds:.0%} |",
            flush=True,
        )
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--rounds", type=int, default=9)
    add("--only", default="", help="layers whose name contains this")
    add("--patience", type=int, default=1, help="times a row is measured at most")
    add("--clock", choices=sorted(CLOCKS), default="wall")
    add("--images", choices=("float32", *NARROW_TOLERANCE), default="float32", help="their dtype")
    options = parser.parse_args()

    found = examine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "apache-tvm"))
    print(f"{found.cpu}, {found.cpus} CPUs, {wqtvm.target.lookup('wq').name}; {packages}\n")
    chosen = [layer for layer in layers() if options.only in layer.name]
    if options.images != "float32":
        chosen = [narrowed(layer, options.images) for layer in chosen if not layer.flops]
    for threads in options.threads:
        with same_threads(threads), torch.inference_mode():
            clock = Clock(options.rounds, PAUSE if threads > 1 else 0.0, CLOCKS[options.clock])
            table(chosen, threads, clock, options.patience, options.images)


if __name__ == "__main__":
    main()
