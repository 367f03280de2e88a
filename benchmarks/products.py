"""Time the integer products of Winograd layers alone, as a share of what the core can multiply.

    python -m benchmarks.products [--targets wq/x86-vnni wq/x86-amx] [--rounds 9]

The kernels are those that wqtvm compiles, one thread, with the loop over a block's taps and
register blocks repeated in place: what more repetitions take is the products, from V and U to M,
all of which L2 holds. The peak is that of ``benchmarks.peaks``, measured before and after.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx

from benchmarks import peaks
from benchmarks.layers.layers import Layer
from benchmarks.layers.plans import planned
from wqtvm import WinogradConfig, set_num_threads
from wqtvm.errors import WqtvmError
from wqtvm.quantization import quantize_weights
from wqtvm.schedules.kernels import kernels_of
from wqtvm.schedules.prefetch import realized
from wqtvm.target import lookup
from wqtvm.topi.layer import definition_of, packed_weights, workload_of

# Channels in and out and the edge of the image, by the group: V, M and U of a panel fit 1.5 MiB.
LAYERS = {
    "wq/x86-vnni": {64: ((64, 64, 56), (128, 128, 56), (320, 320, 64), (512, 512, 64))},
    "wq/x86-amx": {
        64: ((320, 320, 64),),
        128: ((128, 128, 56), (512, 512, 64)),
        256: ((256, 256, 64), (512, 512, 64)),
        0: ((320, 320, 64), (512, 512, 64)),
    },
}
PRODUCTS = {"M", "products"}  # stages, what they are split into included
ONCE, OFTEN = 1, 17  # repetitions
RUNS = 5  # a round, of which the fastest counts


def main() -> int:
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.products",
        description=description,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--targets", nargs="+", choices=LAYERS, default=[*LAYERS], metavar="NAME")
    add("--rounds", type=int, default=9, help="of which the median counts")
    options = parser.parse_args()
    set_num_threads(1)
    print("| target | layer | group | GOPS | peak before | after | share |")
    print("|---|---|---|---:|---:|---:|---:|")
    try:
        for target in options.targets:
            isa = target.removeprefix("wq/x86-")
            for group, layers in LAYERS[target].items():
                for layer in layers:
                    before = peaks.measure(1).int8(isa)
                    rate = products_rate(target, group, layer, options.rounds)
                    after = peaks.measure(1).int8(isa)
                    share = rate / statistics.mean((before, after))
                    inputs, outputs, edge = layer
                    name = f"F(4,3) {inputs}->{outputs}@{edge} | {group or 'one'}"
                    rates = " | ".join(f"{each / 1e9:.0f}" for each in (rate, before, after))
                    print(f"| {target} | {name} | {rates} | {share:.0%} |", flush=True)
    except (WqtvmError, peaks.PeaksError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def products_rate(target: str, group: int, layer: Sequence[int], rounds: int) -> float:
    """Operations a second of the products of a layer, two for each multiplication."""
    record = lookup(target)
    inputs, outputs, edge = layer
    found = planned(
        Layer("alone", inputs, outputs, edge, edge), WinogradConfig(tile=4, group_size=group)
    )
    kernels = kernels_of(record)
    work = kernels.divided(workload_of(found, record), 1)
    scheduled = kernels.schedule(definition_of(work))
    rng = np.random.default_rng(0)
    weights = quantize_weights(rng.standard_normal((outputs, inputs, 3, 3)), work.scheme)
    arrays = [
        rng.standard_normal((1, edge, edge, inputs), dtype=np.float32),
        *packed_weights(weights, work).values(),
        np.zeros((1, edge, edge, outputs), np.float32),
    ]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    timers = [
        tvm.compile(repeated(scheduled, count), target=record.tvm_target())
        .jit()
        .time_evaluator("main", tvm.cpu(), number=1, repeat=RUNS)
        for count in (ONCE, OFTEN)
    ]
    seconds = []
    for _ in range(rounds):
        once, often = (min(timer(*tensors).results) for timer in timers)
        seconds.append((often - once) / (OFTEN - ONCE))
    tiles = np.prod(work.tile_shape)
    taps = np.prod(work.scheme.products)
    return float(2 * tiles * taps * inputs * outputs / statistics.median(seconds))


def repeated(function: tirx.PrimFunc, count: int) -> tirx.PrimFunc:
    """The kernel with the products of each block and panel computed so many times."""
    times = tirx.const(count, "int64")

    def repeat(sequence: tirx.SeqStmt) -> tirx.SeqStmt:
        names = [_stages(each) for each in sequence]
        # The whole of them: statements within are of the products alone, too.
        if all(each <= PRODUCTS for each in names):
            return sequence
        return tirx.SeqStmt(
            [
                _again(each, times) if stages and stages <= PRODUCTS else each
                for each, stages in zip(sequence, names, strict=True)
            ]
        )

    return function.with_body(tvm_ffi.structural_map(function.body, (tirx.SeqStmt, repeat)))


def _stages(statement: tirx.Stmt) -> set[str]:
    return {each.block.name_hint.split("_")[0] for each in realized(statement)}


def _again(statement: tirx.Stmt, times: tirx.PrimExpr) -> tirx.Stmt:
    zero = tirx.const(0, "int64")
    return tirx.For(tirx.Var("again", "int64"), zero, times, tirx.ForKind.SERIAL, statement)


if __name__ == "__main__":
    raise SystemExit(main())
