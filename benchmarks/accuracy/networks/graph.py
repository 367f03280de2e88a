"""A network as a list of steps over named tensors: what readers of other formats make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Step:
    """One operator: ``outputs = run(*inputs)``; an empty input name passes None."""

    name: str
    run: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class GraphNetwork(nn.Module):
    """Runs steps in order; a step that is a module is registered under its name.

    Tensors are dropped after their last use.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Sequence[str],
        outputs: Sequence[str],
        constants: dict[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self._inputs, self._outputs = tuple(inputs), tuple(outputs)
        self._constants = dict(constants or {})
        self._steps: list[tuple[str, Callable[..., Any] | None, tuple[str, ...], tuple[str, ...]]]
        self._steps = []
        for step in steps:
            if isinstance(step.run, nn.Module):
                name = step.name.replace(".", "_").replace("/", "_")
                self.add_module(name, step.run)
                self._steps.append((name, None, step.inputs, step.outputs))
            else:
                self._steps.append((step.name, step.run, step.inputs, step.outputs))
        self._last = {name: i for i, step in enumerate(self._steps) for name in step[2]}

    def forward(self, *arguments: Tensor) -> Any:
        """Run all steps; one output as it is, several as a tuple."""
        values: dict[str, Any] = {**self._constants, "": None}
        values.update(zip(self._inputs, arguments, strict=True))
        for index, (name, run, inputs, outputs) in enumerate(self._steps):
            function = getattr(self, name) if run is None else run
            results = function(*(values[key] for key in inputs))
            if len(outputs) == 1:
                results = (results,)
            values.update(zip(outputs, results, strict=True))
            for key in inputs:
                if key and self._last[key] == index and key not in self._outputs:
                    values.pop(key, None)
        found = tuple(values[name] for name in self._outputs)
        return found[0] if len(found) == 1 else found
