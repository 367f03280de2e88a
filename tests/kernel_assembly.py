"""Reading the assembly of compiled kernels: blocks between labels, and innermost loops."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import tvm

_LABEL = re.compile(r"^(?P<name>[\w.$]+):")
# Comments are "# ..." on x86 and "// ..." on Arm, where "#1" is a number.
# "{vex}" tells the assembler which of two forms of an instruction is meant.
_INSTRUCTION = re.compile(
    r"^\t(\{vex\}\s+)?(?P<mnemonic>[a-z][\w.]*)\s*(?P<operands>.*?)\s*(?:(?:#|//)\s.*)?$"
)
# LLVM's marks for debug information: no code jumps to them.
_MARK = re.compile(r"\.L(tmp|func_begin|func_end|loc|debug)")
_JUMP = re.compile(r"j\w+|b(\.\w+)?|cbn?z|tbn?z")


@dataclass(frozen=True)
class Instruction:
    """One line of assembly: AT&T syntax for x86, Arm's own for aarch64."""

    mnemonic: str
    operands: str

    @property
    def target(self) -> str | None:
        """The label that a jump goes to."""
        if not _JUMP.fullmatch(self.mnemonic):
            return None
        return self.operands.split(",")[-1].strip()

    def __str__(self) -> str:
        return f"{self.mnemonic} {self.operands}"


@dataclass(frozen=True)
class Code:
    """Instructions in a row."""

    instructions: tuple[Instruction, ...]

    def __iter__(self) -> Iterator[Instruction]:
        return iter(self.instructions)

    def __len__(self) -> int:
        return len(self.instructions)

    def matching(self, mnemonic: str, operands: str = "") -> list[Instruction]:
        """Instructions whose mnemonic matches wholly, and whose operands hold a match."""
        return [
            instruction
            for instruction in self
            if re.fullmatch(mnemonic, instruction.mnemonic)
            and re.search(operands, instruction.operands)
        ]

    def between(self, chosen: Iterable[Instruction]) -> Code:
        """What lies between the first and the last of some of the instructions."""
        identities = {id(instruction) for instruction in chosen}
        places = [i for i, instruction in enumerate(self) if id(instruction) in identities]
        return Code(self.instructions[places[0] : places[-1] + 1])


@dataclass(frozen=True)
class Assembly:
    """All instructions of a library, and where its labels stand among them."""

    code: Code
    labels: dict[str, int]

    @cached_property
    def blocks(self) -> list[Code]:
        """What lies between two labels."""
        edges = sorted({0, *self.labels.values(), len(self.code)})
        return [Code(self.code.instructions[start:stop]) for start, stop in pairwise(edges)]

    @cached_property
    def innermost_loops(self) -> list[Code]:
        """From a label to a jump back to it, with no other such pair inside."""
        spans = {
            (self.labels[instruction.target], i + 1)
            for i, instruction in enumerate(self.code)
            if instruction.target in self.labels and self.labels[instruction.target] <= i
        }
        innermost = [
            span
            for span in spans
            if not any(span[0] <= o[0] and o[1] <= span[1] and o != span for o in spans)
        ]
        return [Code(self.code.instructions[start:stop]) for start, stop in sorted(innermost)]


def parse(text: str) -> Assembly:
    """Parse the assembly that LLVM prints."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            if not _MARK.match(label["name"]):
                labels[label["name"]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(found["mnemonic"], found["operands"]))
    return Assembly(Code(tuple(instructions)), labels)


def assembly_of(library: tvm.runtime.Executable | Any) -> Assembly:
    """The assembly of what ``tvm.compile`` returned."""
    return parse(library.mod.inspect_source("asm"))
