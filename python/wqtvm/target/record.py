"""What a target is: one frozen record, so that no other file has to name an ISA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import ConfigError
from .machine import Machine

if TYPE_CHECKING:
    import tvm.target

Architecture = Literal["x86_64", "aarch64", "cuda"]

ARCHITECTURES: tuple[Architecture, ...] = ("x86_64", "aarch64", "cuda")
PREFIX = "wq/"
_STORED = {"bfloat16": "uint16"}


@dataclass(frozen=True)
class DotProduct:
    """The int8 or int16 multiply-accumulate instruction of a target.

    One instruction adds, in each of ``lanes`` int32 accumulators, ``reduce`` products
    ``activation * weight``.

    Attributes
    ----------
    lanes : int32 accumulators of one instruction.
    reduce : products that are summed into one accumulator; the channels packed side by side.
    activation_dtype, weight_dtype : types of the two operands as the instruction reads them; those
        of "bfloat16" are summed in float32.
    zero_point : what is added to a signed int8 activation to fit ``activation_dtype``; its
        contribution, ``zero_point * sum(weights)``, is taken off again for each group.
    """

    lanes: int
    reduce: int
    activation_dtype: str
    weight_dtype: str
    zero_point: int

    @property
    def stored_activation(self) -> str:
        """What memory holds of activations: of bfloat16 its bits, uint16."""
        return _STORED.get(self.activation_dtype, self.activation_dtype)

    @property
    def stored_weight(self) -> str:
        """What memory holds of weights."""
        return _STORED.get(self.weight_dtype, self.weight_dtype)

    def __post_init__(self) -> None:
        if self.lanes < 1 or self.reduce < 1:
            raise ConfigError(
                f"DotProduct has lanes={self.lanes}, reduce={self.reduce}; give positive numbers"
            )
        if (self.zero_point != 0) != self.activation_dtype.startswith("uint"):
            raise ConfigError(
                f"DotProduct has zero_point={self.zero_point} for {self.activation_dtype} "
                "activations; unsigned ones need a zero point, signed ones have none"
            )


@dataclass(frozen=True)
class TargetRecord:
    """One named target: what TVM is told about it, and what the schedules need to know.

    Attributes
    ----------
    name : name of the TVM target tag, "wq/...".
    summary : one line for people.
    architecture : machine that runs the code; "cuda" is a device beside any host.
    mtriple, mcpu, mattr : LLVM's names of the target (for "cuda", ``mcpu`` is the arch, "sm_80").
    features : CPU flags, as Linux names them in /proc/cpuinfo, that the code may use.
    vector_lanes : float32 values of one vector register (on CUDA of one 128-bit access).
    dot : the dot-product instruction.
    bfloat16 : that of bfloat16, or None where there is none.
    schedule : module of ``wqtvm.schedules`` that has the target's schedules.
    machine : peaks of one that is typical of the target, for predicted times.
    has_tiles : whether there are two-dimensional registers, on which attention in bfloat16 is.
    """

    name: str
    summary: str
    architecture: Architecture
    mtriple: str
    mcpu: str
    mattr: tuple[str, ...]
    features: tuple[str, ...]
    vector_lanes: int
    dot: DotProduct
    schedule: str
    machine: Machine
    bfloat16: DotProduct | None = None
    has_tiles: bool = False

    def __post_init__(self) -> None:
        if not self.name.startswith(PREFIX):
            raise ConfigError(f"target name is {self.name!r}; it has to begin with {PREFIX!r}")
        if self.architecture not in ARCHITECTURES:
            raise ConfigError(
                f"target {self.name} has architecture {self.architecture!r}; "
                f"give one of {', '.join(ARCHITECTURES)}"
            )

    def config(self, num_cores: int | None = None) -> dict[str, Any]:
        """Return the dictionary that TVM makes the target from, ``num_cores`` left out if None.

        The record's own name is among the keys: TVM keeps keys through every pass, and so a
        ``tvm.target.Target`` can be mapped back to its record.
        """
        if self.architecture == "cuda":
            keys = ["wq", self.name, "cuda", "gpu"]
            return {"kind": "cuda", "arch": self.mcpu, "keys": keys, "host": {"kind": "llvm"}}
        family = {"x86_64": "x86", "aarch64": "arm_cpu"}[self.architecture]
        config: dict[str, Any] = {
            "kind": "llvm",
            "mtriple": self.mtriple,
            "keys": ["wq", self.name, family, "cpu"],
        }
        if self.mcpu:
            config["mcpu"] = self.mcpu
        if self.mattr:
            config["mattr"] = list(self.mattr)
        if num_cores is not None:
            config["num-cores"] = num_cores
        return config

    def tvm_target(self) -> tvm.target.Target:
        """Return the TVM target of this record, without a core count (use it to cross-compile)."""
        from tvm.target import Target

        return Target(self.config())
