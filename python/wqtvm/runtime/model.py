"""A compiled network, as a callable."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from . import cpu
from .specs import PlainTensors, check_inputs, is_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..config import WinogradConfig
    from ..frontend.model import ImportedModel
    from ..quantization.plan import Plan
    from ..report import AccuracyReport
    from ..target import TargetRecord
    from ..tensor_spec import TensorSpec
    from .specs import Value

# TVM's code loads whole vectors from the beginning of a tensor.
_ALIGNMENT = 64


class CompiledModel:
    """A compiled network: call it as the PyTorch model, or export it as an artefact.

    Several threads may call it; they take turns.

    Attributes
    ----------
    plan : how each convolution is computed, and why.
    config : the configuration that it was compiled with.
    target : the machine that it was compiled for.
    input_specs, output_specs : name, shape and dtype of each input and output, in order.
    single_output : whether a call returns the output itself, not a tuple.
    imported : the float network, or None if this one was loaded from an artefact.
    """

    def __init__(
        self,
        executable: Any,
        params: Mapping[str, NDArray[Any]],
        *,
        plan: Plan,
        config: WinogradConfig,
        target: TargetRecord,
        input_specs: Sequence[TensorSpec],
        output_specs: Sequence[TensorSpec],
        single_output: bool,
        imported: ImportedModel | None = None,
    ) -> None:
        """Bind what was built.

        Parameters
        ----------
        executable : what ``relax.build`` returns, or the module that a library was loaded as; its
            ``main`` takes the inputs and then the parameters.
        params : the parameters, in the order in which ``main`` takes them.
        """
        import tvm

        self.plan = plan
        self.config = config
        self.target = target
        self.input_specs = tuple(input_specs)
        self.output_specs = tuple(output_specs)
        self.single_output = single_output
        self.imported = imported
        self._executable = executable
        self._params = {name: tvm.runtime.tensor(value) for name, value in params.items()}
        self._arguments: tuple[Any, ...] = ()
        self._main: Any = None
        self._plain: PlainTensors | None = None
        self._lock = threading.Lock()

    def __call__(self, *inputs: Value) -> Any:
        """Run the network.

        Inputs are torch tensors on the CPU or numpy arrays; the outputs are of the same kind. No
        gradient flows through them. A NaN or an infinity is no error: it spreads as it would in
        float, at least to its whole quantization group.

        Raises
        ------
        InputMismatchError
            If an input has another shape or dtype than the network was compiled for.
        TargetNotRunnableError
            If the network was compiled for another machine.
        """
        if self._plain is not None and self._plain.match(inputs):
            with self._lock:
                result = self._main(*inputs, *self._arguments)
            if self.single_output and is_torch(result):
                return result
            return self._converted(result, as_torch=True)
        check_inputs(inputs, self.input_specs)
        as_torch = bool(inputs) and is_torch(inputs[0])
        with self._lock:
            main = self._runnable_main()
            result = main(*map(self._bind, inputs), *self._arguments)
            if as_torch and self._plain is None and self.target.architecture != "cuda":
                self._plain = PlainTensors(self.input_specs, _ALIGNMENT)
        return self._converted(result, as_torch)

    def _converted(self, result: Any, as_torch: bool) -> Any:
        outputs = list(result) if len(self.output_specs) > 1 else [result]
        converted = tuple(_to_torch(out) if as_torch else out.numpy() for out in outputs)
        return converted[0] if self.single_output else converted

    @property
    def params(self) -> dict[str, NDArray[Any]]:
        """Copies of the parameters, in the order in which the compiled code takes them."""
        return {name: tensor.numpy() for name, tensor in self._params.items()}

    @property
    def executable(self) -> Any:
        """What ``relax.build`` returned, or the module that the artefact's library was loaded as.

        ``tvm.relax.VirtualMachine`` takes either.
        """
        return self._executable

    def export(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the network as an artefact folder, see ``runtime.artefact.export``."""
        from .artefact import export

        export(self, path, overwrite=overwrite)

    def report(self, inputs: Sequence[Value] | None = None, *, seed: int = 0) -> AccuracyReport:
        """Measure each layer's accuracy against float, see ``report.accuracy_report``.

        Raises
        ------
        ConfigError
            If the network was loaded from an artefact, which has no float weights.
        """
        if self.imported is None:
            raise ConfigError(
                "this network was loaded from an artefact, which has no float weights to compare "
                "with; make the report where it is compiled"
            )
        from ..report import accuracy_report

        return accuracy_report(
            self.imported, inputs, target=self.target, config=self.config, seed=seed
        )

    def __repr__(self) -> str:
        algorithms = Counter(layer.algorithm for layer in self.plan.layers)
        counted = ", ".join(f"{count} {name}" for name, count in algorithms.items())
        takes = "; ".join(map(str, self.input_specs))
        gives = "; ".join(map(str, self.output_specs))
        return (
            f"<CompiledModel for {self.target.name}: convolutions: {counted or 'none'}; "
            f"takes {takes or 'nothing'}; gives {gives}>"
        )

    def _runnable_main(self) -> Any:
        if self._main is None:
            import tvm
            from tvm.runtime.vm import VirtualMachine

            cpu.require(self.target)
            device = tvm.cuda(0) if self.target.architecture == "cuda" else tvm.cpu()
            self._main = VirtualMachine(self._executable, device)["main"]
            self._arguments = tuple(self._on_device(tensor) for tensor in self._params.values())
        return self._main

    def _bind(self, value: Any) -> Any:
        """Return a TVM tensor of the value: the same memory where TVM can use it, else a copy."""
        import tvm

        if is_torch(value):
            value = value.detach().resolve_neg().contiguous()
            if value.data_ptr() % _ALIGNMENT == 0:
                return self._on_device(tvm.runtime.from_dlpack(value))
            value = value.numpy()
        # Not ascontiguousarray: it gives a scalar an axis.
        return self._on_device(tvm.runtime.tensor(np.asarray(value, order="C")))

    def _on_device(self, tensor: Any) -> Any:
        import tvm

        return tensor.copyto(tvm.cuda(0)) if self.target.architecture == "cuda" else tensor


def _to_torch(tensor: Any) -> Tensor:
    import torch
    from torch.utils.dlpack import from_dlpack

    if tensor.device.type != "cpu":
        return torch.from_numpy(tensor.numpy())
    return from_dlpack(tensor)
