"""Plans by measuring, on small networks that are easy and hard to quantize."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import wqtvm
from wqtvm import WinogradConfig
from wqtvm.errors import ConfigError, InputMismatchError, NonFiniteError
from wqtvm.frontend import from_torch
from wqtvm.planning import plan_network
from wqtvm.planning.automatic import _measure
from wqtvm.planning.candidates import Candidate, candidates, multiplications, saved
from wqtvm.planning.float_network import FloatNetwork
from wqtvm.planning.samples import made_up_samples
from wqtvm.quantization import sqnr_db
from wqtvm.quantization.plan import LayerPlan, Plan, Reason
from wqtvm.runtime.made_up import random_inputs
from wqtvm.target import lookup, usable_cpus
from wqtvm.tensor_spec import TensorSpec
from wqtvm.topi.layer import workload_of
from wqtvm.transform import pipeline
from wqtvm.tuning.journal import Journal
from wqtvm.tuning.task import Task

AUTO = WinogradConfig(algorithm="auto")


class Easy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 33, 3, padding=1)
        self.second = nn.Conv2d(33, 32, 3, padding=1)
        self.strided = nn.Conv2d(32, 8, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.strided(torch.relu(self.second(torch.relu(self.first(x)))))


class Trap(Easy):
    """A channel a thousand times as large as the others of its group, whose weights undo that."""

    def __init__(self) -> None:
        super().__init__()
        with torch.no_grad():
            self.first.weight[4] *= 1000
            self.first.bias[4] *= 1000
            self.second.weight[:, 4] /= 1000


class Merged(nn.Module):
    """Branches merged into single kernels, as of RepVGG: large weights that cancel.

    What the blocks add to their input is the difference of two channels that are nearly equal, 17
    times as large, in the kernels' middle taps; the other taps are small, and matter.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.tail = nn.Conv2d(32, 3, 3, padding=1)
        with torch.no_grad():
            self.body.weight *= 0.2
            for k in range(16):
                self.body.weight[k, k, 1, 1] += 17
                self.body.weight[k, k + 16, 1, 1] -= 17

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.head(x))
        both = torch.cat([first, first], 1)
        result: Tensor = self.tail(torch.relu(self.body(both)))
        return result


X = (torch.randn(1, 3, 22, 18, generator=torch.Generator().manual_seed(1)),)


def plan(model: nn.Module, config: WinogradConfig = AUTO, **options: object) -> Plan:
    prepared = pipeline.prepare(from_torch(model.eval(), X).module)
    return plan_network(prepared, config, **options)


def test_a_loose_budget_takes_little_time_and_a_tight_one_more() -> None:
    def chosen(loss: float) -> list[LayerPlan]:
        config = WinogradConfig(algorithm="auto", max_loss_db=loss)
        planned = plan(Easy(), config, target="wq/x86-avx2").layers
        return list(planned)

    def ms(layers: list[LayerPlan]) -> float:
        return sum(layer.predicted_ms or 0.0 for layer in layers)

    loose, tight = chosen(3.0), chosen(0.01)
    assert saved(loose) > 2
    assert ms(loose) < ms(tight)


def test_measured_times_count_instead_of_predicted_ones(tmp_path: Path) -> None:
    config = WinogradConfig(algorithm="auto", max_loss_db=3.0, records="none")
    predicted = plan(Easy(), config).layer("second")
    assert predicted.measured_ms is None
    # A database in which another way of the layer takes next to no time.
    other = plan(Easy(), WinogradConfig(tile=4)).layer("second")
    assert other.label != predicted.label
    record = lookup("wq")
    task = Task(workload_of(other, record), record, usable_cpus())
    database = tmp_path / "db.jsonl"
    Journal(database).add_winner(task.key, task.space.default, 1e-6, 1.0)
    measured = plan(Easy(), replace(config, records=str(database))).layer("second")
    assert (measured.label, measured.measured_ms) == (other.label, 1e-6)
    assert measured.ms_text == "1e-06 measured"


def test_peaks_are_for_auto_and_come_from_a_file() -> None:
    with pytest.raises(ConfigError, match="give algorithm 'auto', or no peaks"):
        WinogradConfig(peaks="peaks.json")
    with pytest.raises(ConfigError, match="peaks is 3; give the path"):
        WinogradConfig(algorithm="auto", peaks=3)  # type: ignore[arg-type]


def test_what_is_left_out_unmeasured_would_not_have_been_chosen() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 32, 3, 3)).astype(np.float32)
    x = rng.standard_normal((1, 8, 8, 32)).astype(np.float32)
    planned = LayerPlan(
        name="body", input_shape=(1, 32, 8, 8), weight_shape=(4, 32, 3, 3), stride=(1, 1),
        padding=(1, 1), dilation=(1, 1), groups=1, algorithm="direct", tile=None, points=None,
        precision="hadamard", group_size=32, scales="correlated", steps="axis", weight_steps="tap",
        reason=Reason.ELIGIBLE,
    )  # fmt: skip

    def clock(layer: LayerPlan) -> float:
        ms = 100.0 if layer.algorithm == "float" else multiplications(layer)
        return ms + 1 / (layer.group_size or 10_000)

    def front(times: list[float], errors: list[float]) -> set[tuple[float, float]]:
        both = list(zip(times, errors, strict=True))
        return {(ms, e) for ms, e in both if not any(a <= ms and b <= e for a, b in both if b < e)}

    offered = candidates(planned, AUTO, clock)
    found = _measure(planned, offered, [x], weight)
    assert len(found.choices) < 0.8 * len(offered)
    exact = offered[-1]
    alone: list[Candidate] = [c for c in offered if c is not exact]
    errors = [_measure(planned, [c, exact], [x], weight).errors[0] for c in alone]
    everything = front([*(c.cost for c in alone), exact.cost], [*errors, 0.0])
    assert everything <= {(c.cost, e) for c, e in zip(found.choices, found.errors, strict=True)}


def test_what_is_not_eligible_keeps_its_reason() -> None:
    model = nn.Sequential(Easy(), nn.Conv2d(8, 8, 3, groups=8))
    reasons = {layer.name: layer.reason for layer in plan(model).layers}
    assert reasons == {
        "0.first": Reason.BUDGET, "0.second": Reason.BUDGET, "0.strided": Reason.BUDGET,
        "1": Reason.GROUPS,
    }  # fmt: skip


class Strided(nn.Module):
    """A strided layer and a 1x1 large enough to be faster in int8."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Conv2d(3, 64, 3, padding=1)
        self.down = nn.Conv2d(64, 128, 3, 2, 1)
        self.point = nn.Conv2d(128, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.point(torch.relu(self.down(torch.relu(self.head(x)))))
        return result


def test_strided_layers_and_1x1_are_direct_where_that_is_faster() -> None:
    x = torch.randn(1, 3, 63, 49, generator=torch.Generator().manual_seed(1))
    model = Strided().eval()
    config = WinogradConfig(algorithm="auto", max_loss_db=0.1)
    compiled = wqtvm.compile(model, x, target="wq/x86-avx2", config=config, calibration=[(x,)])
    layers = [compiled.plan.layer(name) for name in ("down", "point")]
    assert [layer.algorithm for layer in layers] == ["direct", "direct"]
    assert all(layer.correction is not None and layer.balance is not None for layer in layers)
    with torch.no_grad():
        exact = model(x).numpy()
    assert sqnr_db(exact, compiled(x).numpy()) > 33  # as in a trap
    tight = WinogradConfig(algorithm="auto", min_sqnr_db=90.0)
    prepared = pipeline.prepare(from_torch(model, (x,)).module)
    assert {layer.algorithm for layer in plan_network(prepared, tight).layers} == {"float"}


def test_a_least_sqnr_of_a_layer_is_kept() -> None:
    config = WinogradConfig(algorithm="auto", min_sqnr_db=41.0)
    planned = plan(Easy(), config, inputs=X)
    for layer in planned.layers:
        if layer.algorithm != "float":
            assert float(layer.detail.split(" dB")[0]) >= 41.0
    impossible = WinogradConfig(algorithm="auto", min_sqnr_db=90.0)
    assert {layer.algorithm for layer in plan(Easy(), impossible).layers} == {"float"}


def test_a_trap_comes_out_right_without_help() -> None:
    model = Trap().eval()
    with torch.no_grad():
        exact = model(*X)
    fixed = wqtvm.compile(model, X, config=WinogradConfig(tile=6))
    auto = wqtvm.compile(model, X, config=AUTO)
    assert sqnr_db(exact.numpy(), fixed(*X).numpy()) < 30
    # 0.1 dB at 33 dB of PSNR is 49.4 dB of PSNR; the range is some 15 dB above the RMS.
    assert sqnr_db(exact.numpy(), auto(*X).numpy()) > 33


def test_merged_branches_come_out_right_without_help() -> None:
    model = Merged().eval()
    (x,) = random_inputs([TensorSpec("x", (1, 3, 48, 48), "float32")], seed=7)
    image = torch.from_numpy(x)
    with torch.no_grad():
        exact = model(image)

    def decibel(config: WinogradConfig) -> float:
        compiled = wqtvm.compile(model, torch.zeros(1, 3, 48, 48), config=config)
        return sqnr_db(exact.numpy(), compiled(image).numpy())

    assert decibel(WinogradConfig(tile=4, points="lavin")) < 25
    assert decibel(WinogradConfig("direct")) > 35
    assert decibel(AUTO) > 35


def test_several_calls_are_planned_for_at_once() -> None:
    torch.manual_seed(3)
    other = (0.01 * torch.randn(X[0].shape),)
    one = plan(Easy(), inputs=X)
    assert plan(Easy(), inputs=[X]) == one
    assert plan(Easy(), inputs=[X, X]).layers[0].algorithm == one.layers[0].algorithm
    with torch.no_grad():
        truths = [[Easy().eval()(*x)] for x in (X, other)]
    assert plan(Easy(), inputs=[X, other], targets=truths).layers
    with pytest.raises(InputMismatchError, match="targets have shapes"):
        plan(Easy(), inputs=[X, other], targets=truths[0])


def test_a_picture_that_comes_back_says_what_range_pictures_have() -> None:
    def samples(model: nn.Module) -> int:
        prepared = pipeline.prepare(from_torch(model.eval(), X).module)
        network = FloatNetwork(prepared, [])
        return len(
            made_up_samples(network, [TensorSpec("x", (1, 3, 22, 18), "float32")], None, 0)[0]
        )

    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 1.0

    assert samples(Same()) == 1
    assert samples(Easy()) == 2


def test_the_compiled_network_keeps_the_loss_that_was_asked_for() -> None:
    model = Easy().eval()
    with torch.no_grad():
        exact = model(*X)
    generator = torch.Generator().manual_seed(2)
    truth = exact + 0.05 * exact.std() * torch.randn(exact.shape, generator=generator)
    config = WinogradConfig(algorithm="auto", max_loss_db=0.1)
    compiled = wqtvm.compile(model, X, config=config, calibration=X, targets=[truth])
    before = float((exact - truth).square().mean())
    after = float((compiled(*X) - truth).square().mean())
    # The error that is added may happen to point towards the truth or away from it.
    assert 10 * np.log10(after / before) < 0.15


def test_the_same_plan_each_time_and_through_json() -> None:
    first = plan(Easy())
    assert first == plan(Easy())
    assert Plan.from_json(first.to_json()) == first


def test_the_plan_is_for_the_machine_of_the_file_and_progress_counts_up(tmp_path: Path) -> None:
    # Weights come slowly, all else is fast: the fewer bytes of weights, the better.
    fast = ("float32", "float32_ymm", "vnni", "avx_vnni", "avx2", "amx", "neon", "l1", "l2", "l3")
    small = ("threads", "l1_bytes", "l2_bytes", "l3_core_bytes")
    peaks = {**dict.fromkeys(fast, 1e15), **dict.fromkeys(small, 1), "memory": 1e6}
    path = tmp_path / "peaks.json"
    path.write_text(json.dumps([peaks]))
    config = WinogradConfig(algorithm="auto", max_loss_db=3.0, peaks=str(path))
    seen: list[tuple[str, int, int]] = []
    planned = plan(Easy(), config, progress=lambda *step: seen.append(step))
    assert planned.layer("second").algorithm == "direct"
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="targets are given without inputs"):
        plan(Easy(), targets=[X[0]])
    with pytest.raises(InputMismatchError, match="targets have shapes"):
        plan(Easy(), inputs=X, targets=[torch.zeros(1, 1, 1, 1)])
    with pytest.raises(NonFiniteError, match="layer first"):
        plan(Easy(), inputs=(X[0] * torch.inf,))
    with pytest.raises(ConfigError, match="give algorithm 'auto'"):
        WinogradConfig(max_loss_db=0.1)
    for loss in (0, -1, float("nan"), True):
        with pytest.raises(ConfigError, match="max_loss_db"):
            WinogradConfig(algorithm="auto", max_loss_db=loss)
