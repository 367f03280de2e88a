"""Running a compiled kernel as a program of its own, without a TVM runtime, emulated if need be."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi.libinfo
from kernel_layers import Kernel
from numpy.typing import NDArray

HERE = Path(__file__).parent
INCLUDE = tvm_ffi.libinfo.find_include_path()
DLPACK_CODES = {"i": 0, "u": 1, "f": 2}
CPU, CUDA = 1, 2  # DLPack's device types


def run(*command: str | Path) -> None:
    """Run a command; if it fails, what it said is the failure's message."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"


@dataclass(frozen=True)
class Driver:
    """How a program around a kernel is made and run.

    Attributes
    ----------
    compiler : a C compiler for the kernel's machine.
    link : further arguments for the linker: objects, libraries.
    emulator : the command before the program, if this machine cannot run it.
    device : DLPack's type of the device that the kernel's tensors say they are on.
    """

    compiler: str
    link: Sequence[str | Path] = ()
    emulator: Sequence[str] = ()
    device: int = CPU

    def run(self, layer: Kernel, library: Any, folder: Path, tasks: int = 3) -> NDArray[np.float32]:
        """Link what ``tvm.compile`` returned to a program, and return what it makes of a layer."""
        kernel, program = folder / "kernel.o", folder / "run_kernel"
        arguments, result = folder / "arguments", folder / "result"
        library.mod.write_to_file(str(kernel), "o")
        flags = ("-std=c11", "-O1", "-Wall", "-Werror", "-I", INCLUDE)
        source = HERE / "run_kernel.c"
        run(self.compiler, *flags, source, kernel, *self.link, "-lm", "-o", program)
        inputs = [tensor.numpy() for tensor in layer.arguments()]
        self._write(arguments, [*inputs, np.full(layer.result_shape, 7, np.float32)])
        run(*self.emulator, program, arguments, result, str(tasks))
        return np.fromfile(result, np.float32).reshape(layer.result_shape)

    def _write(self, path: Path, arrays: list[NDArray[Any]]) -> None:
        with path.open("wb") as file:
            for array in arrays:
                dtype = (DLPACK_CODES[array.dtype.kind], array.dtype.itemsize * 8)
                file.write(np.array([self.device, *dtype, array.ndim], np.int32).tobytes())
                file.write(np.array(array.shape, np.int64).tobytes())
                file.write(np.ascontiguousarray(array).tobytes())
