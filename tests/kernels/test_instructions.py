"""The instructions that the x86 schedules are for are there, in the loops that matter.

Nothing here runs the code, so that every x86 target is tested on every machine.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

import pytest
import torch
import tvm
from kernel_assembly import Assembly, Code, assembly_of, parse
from kernel_layers import cpu_kernels, make_layer
from torch import nn

import wqtvm

# By target: its widest register, the instruction that multiplies bytes, and what adds to the sums.
REGISTER = {"wq/x86-vnni": "zmm", "wq/x86-avx2": "ymm"}
DOT = {"wq/x86-vnni": "vpdpbusd", "wq/x86-avx2": "vpmaddwd"}
ACCUMULATE = {"wq/x86-vnni": "vpdpbusd", "wq/x86-avx2": "vpaddd"}

each_target = pytest.mark.parametrize("target", list(REGISTER))
each_precision = pytest.mark.parametrize("precision", ["hadamard", "full"])
each_width = pytest.mark.parametrize("channels", [64, 96])


@dataclass(frozen=True)
class Compiled:
    """The assembly of a layer, and how many accumulators its product should have."""

    assembly: Assembly
    tiles: int
    vectors: int

    @property
    def accumulators(self) -> int:
        return self.tiles * self.vectors


@functools.cache
def compiled(target: str, precision: str, channels: int, steps: str = "channel") -> Compiled:
    """A layer of whole vectors, with enough tiles to fill every accumulator."""
    shape = (1, 32, 64, channels)
    layer = make_layer(target, shape, channels, precision=precision, steps=steps)
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    work, blocking = layer.work, cpu_kernels(layer.record).winograd
    panel = blocking.panel(precision, work.packed_channels, work.out_group_size)
    tiles = math.prod(blocking.rows(work.block))
    return Compiled(assembly_of(library), tiles, blocking.vectors(panel))


def product_loops(target: str, kernel: Compiled) -> list[Code]:
    """Innermost loops of the integer product: dot products with broadcasts of V from memory."""
    loops = [
        loop
        for loop in kernel.assembly.innermost_loops
        if loop.matching(DOT[target]) and loop.matching("vpbroadcastd", r"^[-\d]*\(%r(?!ip|sp)")
    ]
    assert loops
    return loops


@each_target
def test_the_product_has_as_many_accumulators_as_registers_allow(target: str) -> None:
    blocking = cpu_kernels(target).winograd
    kernel = compiled(target, "hadamard", 96)
    assert kernel.tiles == blocking.register_tiles
    assert kernel.vectors == max(
        vectors for vectors in range(1, blocking.register_vectors + 1)
        if 96 // blocking.dot_lanes % vectors == 0
    )  # fmt: skip


@each_target
@each_precision
@each_width
def test_a_step_of_the_product_updates_every_accumulator_once(
    target: str, precision: str, channels: int
) -> None:
    kernel = compiled(target, precision, channels)
    for loop in product_loops(target, kernel):
        dots = loop.matching(DOT[target], REGISTER[target])
        updates = loop.matching(ACCUMULATE[target], REGISTER[target])
        updated = [instruction.operands.split(",")[-1] for instruction in updates]
        for first in range(0, len(updated), kernel.accumulators):
            step = updated[first : first + kernel.accumulators]
            assert len(set(step)) == kernel.accumulators
        # LLVM may unroll steps, but only whole ones.
        assert len(dots) == len(updates) == len(loop.matching(DOT[target]))
        assert len(dots) % kernel.accumulators == 0
        # V is broadcast once a tile, not once a product.
        steps = len(dots) // kernel.accumulators
        assert len(loop.matching("vpbroadcastd")) <= kernel.tiles * steps


@pytest.mark.parametrize(("channels", "fetch"), [(64, "prefetcht0"), (256, "prefetcht1")])
def test_weights_are_fetched_into_l1_if_l2_holds_them_and_else_into_l2(
    channels: int, fetch: str
) -> None:
    target = "wq/x86-vnni"  # others have loops over steps, which fetch nothing
    kernel = compiled(target, "hadamard", channels)
    work = make_layer(target, (1, 32, 64, channels), channels).work
    near = math.prod(work.packed_shape) <= cpu_kernels(target).winograd.l2_bytes
    assert near == (fetch == "prefetcht0")
    for loop in product_loops(target, kernel):
        assert {each.mnemonic for each in loop.matching("prefetch.*")} == {fetch}


def test_steps_are_straight_code_or_a_loop() -> None:
    """As the point has it, of the same products; LLVM may take two steps of a loop at once."""
    target, products = "wq/x86-vnni", []
    default = make_layer(target, (1, 32, 64, 64), 64, group_size=64)
    space = cpu_kernels(target).space(default.work, 2)
    for unroll in (1, 0):
        point = {**space.default, "unroll_steps": unroll}
        layer = make_layer(target, (1, 32, 64, 64), 64, group_size=64, point=point)
        code = assembly_of(tvm.compile(layer.scheduled(), target=layer.record.tvm_target())).code
        products.append(len(code.matching("vpdpbusd")))
    assert products[0] >= 16 * 8 * 2
    assert products[1] <= products[0] / 4


@each_target
@each_precision
@each_width
def test_accumulators_stay_in_registers(target: str, precision: str, channels: int) -> None:
    kernel = compiled(target, precision, channels)
    for loop in product_loops(target, kernel):
        dots = loop.matching(DOT[target])
        moves = loop.between(dots).matching("vmov.*", r"\(%rsp\)")
        # Among the products of a group's last step, LLVM may reload M's accumulators already.
        steps = dots[: -kernel.accumulators] or dots
        moves = loop.between(steps).matching("vmov.*", r"\(%rsp\)")
        # Not kept at all, they would be loaded and stored for each product. One in eight may be:
        # LLVM does so on AVX2, where M's accumulators want registers as well.
        assert len(moves) <= len(steps) / 4, [str(move) for move in moves]


@each_target
def test_what_is_spilled_is_aligned(target: str) -> None:
    """Sums over all groups do not fit beside those of one: a vector lies on one cache line."""
    code = compiled(target, "hadamard", 96).assembly.code
    moves = [
        move.mnemonic
        for move in code.matching("vmov.*", r"\(%rsp\)")
        if REGISTER[target] in move.operands
    ]
    aligned = [move for move in moves if re.match("vmovap|vmovdqa", move)]
    # TVM's own small buffers on the stack are aligned to 16 bytes.
    assert len(aligned) > 9 * (len(moves) - len(aligned))


@each_precision
def test_avx2_uses_what_avx2_has(precision: str) -> None:
    assembly = compiled("wq/x86-avx2", precision, 64).assembly
    assert not assembly.code.matching(".*", r"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b")
    assert not assembly.code.matching("vpdpbusd")


@each_target
@each_precision
def test_nothing_saturates(target: str, precision: str) -> None:
    # vpmaddubsw adds two products of bytes in int16, and vpdpbusds clamps the sum: wrong numbers.
    code = compiled(target, precision, 64).assembly.code
    assert not code.matching("vpmaddubsw|vpdpbusds|vpdpwssds")


@each_target
@each_precision
def test_the_largest_magnitude_is_a_vector_reduction(target: str, precision: str) -> None:
    loops = compiled(target, precision, 64, "axis").assembly.innermost_loops
    reductions = [loop for loop in loops if loop.matching("vpmaxsd")]
    # V_amax, and in "full" a maximum for each of the four other quantized tensors.
    assert len(reductions) >= {"hadamard": 1, "full": 5}[precision]
    for loop in reductions:
        assert loop.matching("vpmaxsd", REGISTER[target])
        # The sign is masked before anything is compared, in whole registers too.
        assert loop.matching("vpandd?", REGISTER[target])


@each_target
def test_with_a_step_a_channel_whole_vectors_are_compared(target: str) -> None:
    code = compiled(target, "full", 64).assembly.code
    # Magnitudes have no sign. Four tensors, each of four rows or columns at least.
    maxima = code.matching("vpmaxud")
    assert len(maxima) >= 4 * 4
    # LLVM narrows one here and there.
    assert len(code.matching("vpmaxud", REGISTER[target])) > 0.95 * len(maxima)


@each_target
@each_precision
@each_width
def test_m_is_updated_by_fused_multiply_add(target: str, precision: str, channels: int) -> None:
    kernel = compiled(target, precision, channels)
    updates = [
        block
        for block in kernel.assembly.blocks
        if block.matching("vcvtdq2ps") and block.matching("vfmadd.*")
    ]
    assert updates
    for block in updates:
        converted = block.matching("vcvtdq2ps", REGISTER[target])
        assert len(converted) % kernel.accumulators == 0
        assert len(block.matching(r"vfmadd\d+ps", REGISTER[target])) == len(converted)
        assert not block.matching("vaddps")


SCALAR = re.compile(
    r"v(add|sub|mul|div|min|max|sqrt|round|rndscale|fn?m(add|sub)\d+|cmp\w*)s[sd]"  # one float
    r"|vcvt\w*s[sd]2\w+|vcvt\w+2s[sd]"  # conversions of one float
    r"|vpgather\w+|vgather\w+|vinsertps|vpinsr\w|vpextr[bw]"  # vectors put together value by value
)


@each_target
@each_precision
def test_no_stage_is_left_scalar(target: str, precision: str) -> None:
    for loop in compiled(target, precision, 64).assembly.innermost_loops:
        scalars = [str(i) for i in loop if SCALAR.fullmatch(i.mnemonic)]
        # Quantized values stored one by one: their registers are general ones.
        scalars += [str(i) for i in loop.matching("mov[bw]", r"^%\w+, .*\(%r(?!sp)")]
        assert not scalars


@each_target
@each_precision
def test_transforms_and_quantization_fill_whole_registers(target: str, precision: str) -> None:
    """Each rounding to the nearest integer, and each fused multiply-add, is of a whole register."""
    code = compiled(target, precision, 64).assembly.code
    roundings = code.matching("vroundps|vrndscaleps|vcvtps2dq")
    assert len(roundings) >= {"hadamard": 1, "full": 5}[precision]
    for instruction in roundings + code.matching(r"vfn?m(add|sub)\d+ps"):
        assert REGISTER[target] in instruction.operands, instruction


@functools.cache
def direct_loops(target: str) -> tuple[list[Code], int]:
    """Innermost loops of a direct convolution's products, and its number of accumulators."""
    layer = make_layer(target, (1, 12, 24, 96), 96, tile=1, weight_steps="filter")
    library = tvm.compile(layer.scheduled(), target=layer.record.tvm_target())
    loops = [loop for loop in assembly_of(library).innermost_loops if loop.matching(DOT[target])]
    return loops, layer.work.pixels * layer.work.vectors


@each_target
def test_a_direct_product_keeps_everything_in_registers(target: str) -> None:
    loops, accumulators = direct_loops(target)
    assert loops
    for loop in loops:
        dots = loop.matching(DOT[target])
        assert len(dots) == len(loop.matching(DOT[target], REGISTER[target]))
        assert len(dots) % accumulators == 0
        assert not loop.matching("vmov.*", r"\(%rsp\)")
        assert not loop.matching("vpmaddubsw|vpdpbusds|vpdpwssds")


def test_a_direct_product_starts_from_memory_and_scales_a_tap() -> None:
    # Whole registers that are copied would take turns with the products.
    loops, accumulators = direct_loops("wq/x86-vnni")
    for loop in loops:
        assert not loop.matching("vmov.*", r"^%zmm\d+, %zmm\d+$")
        if converted := loop.matching("vcvtdq2ps", "zmm"):
            assert len(converted) == accumulators
            assert len(loop.matching(r"vfmadd\d+ps", "zmm")) == accumulators
    assert any(loop.matching("vcvtdq2ps", "zmm") for loop in loops)


@pytest.mark.parametrize(
    ("target", "algorithm"), [("wq/x86-vnni", "winograd"), ("wq/arm-neon", "direct")]
)
def test_activations_behind_a_convolution_are_no_calls(target: str, algorithm: str) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.SiLU()).eval()
    config = wqtvm.WinogradConfig(algorithm=algorithm)
    model = wqtvm.compile(model, (torch.zeros(1, 16, 16, 16),), target=target, config=config)
    (library,) = (m for m in model._executable.mod.imports if m.kind == "llvm")
    code = parse(library.inspect_source("s")).code
    assert code.matching("vdivps|fdiv", r"%[yz]mm|v\d+\.4s")
    assert not code.matching("callq?|bl", "exp")
