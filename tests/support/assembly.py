"""Reads what the code generator made of an inner loop."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.L\w+):")
_JUMP = re.compile(r"^\tj\w+\t(\.L\w+)")
_FUNCTION = re.compile(r"^\t\.type\t(\S+),@function$(.*?)^\.Lfunc_end", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class InnerLoop:
    """A basic block that jumps back to its own start.

    Attributes:
        multiply_adds: Vector multiply-adds.
        spills: Vector moves from and to the stack.
    """

    multiply_adds: int
    spills: int


def inner_loops(assembly: str) -> list[InnerLoop]:
    """All innermost loops of one block, in order."""
    loops: list[InnerLoop] = []
    label, block = "", list[str]()
    for line in assembly.splitlines():
        found = _LABEL.match(line)
        if found:
            label, block = found.group(1), []
            continue
        block.append(line)
        jump = _JUMP.match(line)
        if jump and jump.group(1) == label:
            fmas = sum(1 for x in block if x.startswith("\tvfmadd"))
            stack = [x for x in block if "(%rsp" in x and re.match(r"\tvmov[au]p[sd]", x)]
            loops.append(InnerLoop(fmas, len(stack)))
    return loops


def code_of(assembly: str, kernel: str) -> str:
    """The functions that a kernel of a module consists of: its own, and those that it refers to."""
    functions = {found.group(1): found.group(2) for found in _FUNCTION.finditer(assembly)}
    found: dict[str, str] = {}
    left = [f"__tvm_ffi_{kernel}"]
    while left:
        name = left.pop()
        found[name] = functions[name]
        used = set(re.findall(r"[\w.$]+", found[name])) & functions.keys()
        left += used - found.keys() - set(left)
    return "".join(found.values())
