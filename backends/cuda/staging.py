"""The way of a product's operands into shared memory, a step along the depth at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cuda.tir import (
    Expr,
    below,
    conjunction,
    floordiv,
    floormod,
    i32,
    name,
    put,
    registers,
    zeros,
)

#: Elements after each line of a tile in shared memory, so that lines start in different banks.
PAD = {"float16": 8, "float32": 4}


class Source(Protocol):
    """An operand: lines of neighbours along the depth, or (``across``) rows of such lines."""

    @property
    def dtype(self) -> str:
        """``float16`` or ``float32``."""

    @property
    def lanes(self) -> int:
        """Elements that :meth:`load` reads at once."""

    @property
    def across(self) -> bool:
        """Neighbours in memory have the same depth: a matrix [depth, columns]."""

    def line(self, index: Expr) -> Any:
        """What can be computed of a line (a row of the left, a column of the right operand)."""

    def load(self, line: Any, depth: Expr) -> tuple[Expr, list[Expr]]:
        """``lanes`` elements from a depth on, and the conditions under which they exist."""


@dataclass(frozen=True)
class Stage:
    """One operand's way into shared memory: two buffers, one read while the other is filled.

    Attributes:
        source: The operand.
        lines: Lines of the tile.
        depth: Depth of a step.
        threads: Threads of the block.
        turned: Stored with the depth as the slow axis although it is the fast one in memory.
    """

    source: Source
    lines: int
    depth: int
    threads: int
    turned: bool
    buffer: Any
    thread: Expr
    first: Expr

    @property
    def stride(self) -> int:
        """Elements from one row of the buffer to the next."""
        width = self.lines if self.turned or self.source.across else self.depth
        return width + PAD[self.source.dtype]

    @property
    def size(self) -> int:
        """Elements of one of the two buffers."""
        return stage_size(self.source, self.lines, self.depth, self.turned)

    def place(self, at: Expr, line: Expr, depth: Expr) -> Expr:
        """Offset of an element in buffer number ``at``."""
        slow, fast = (depth, line) if self.turned or self.source.across else (line, depth)
        return at * self.size + slow * self.stride + fast

    def vectors(self) -> list[tuple[Expr, Expr, list[Expr]]]:
        """(line, depth) inside the tile of each vector that the thread moves, with conditions."""
        lanes = self.source.lanes
        if lanes == 1 and not self.source.across and self.threads % self.lines == 0:
            return self._by_line()
        width = self.lines if self.source.across else self.depth
        count = self.lines * self.depth // lanes
        found = []
        for step in range(-(-count // self.threads)):
            index = self.thread + i32(step * self.threads)
            inside = below(index, count) if (step + 1) * self.threads > count else []
            slow = name(floordiv(index, width // lanes))
            fast = name(floormod(index, width // lanes) * lanes)
            found.append((fast, slow, inside) if self.source.across else (slow, fast, inside))
        return found

    def _by_line(self) -> list[tuple[Expr, Expr, list[Expr]]]:
        """Single elements: each thread stays on one line, which it has to know only once."""
        line = name(floormod(self.thread, self.lines))
        first = name(floordiv(self.thread, self.lines))
        together = self.threads // self.lines
        steps = range(0, self.depth, together)
        assert self.depth % together == 0
        return [(line, name(first + i32(step)), []) for step in steps]


def stage_size(source: Source, lines: int, depth: int, turned: bool) -> int:
    """Elements of a tile in shared memory."""
    by_depth = turned or source.across
    slow, fast = (depth, lines) if by_depth else (lines, depth)
    return slow * (fast + PAD[source.dtype])


class Mover:
    """Moves the steps of one operand: first to registers, then to shared memory."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        source = stage.source
        self.vectors = stage.vectors()
        # A line's part of the address does not change from step to step.
        known: dict[int, Any] = {}
        for line, _, _ in self.vectors:
            if id(line) not in known:
                known[id(line)] = source.line(stage.first + line)
        self.lines = [known[id(line)] for line, _, _ in self.vectors]

    def fetch(self, start: Expr, conditions: list[Expr]) -> list[Expr]:
        """Read the thread's part of the step that starts at a depth."""
        source = self.stage.source
        values = []
        for line, (_, depth, inside) in zip(self.lines, self.vectors, strict=True):
            value, exists = source.load(line, start + depth)
            condition = conjunction([*conditions, *inside, *exists])
            if condition is not None:
                value = tirx.if_then_else(condition, value, zeros(source.dtype, source.lanes))
            values.append(name(value))
        return values

    def deposit(self, values: list[Expr], at: Expr) -> None:
        """Store what :meth:`fetch` returned in buffer number ``at``."""
        stage = self.stage
        lanes = stage.source.lanes
        for value, (line, depth, inside) in zip(values, self.vectors, strict=True):
            condition = conjunction(inside)
            frame = T.If(condition) if condition is not None else None
            if frame is None:
                self._put(value, at, line, depth, lanes)
                continue
            with frame, T.Then():
                self._put(value, at, line, depth, lanes)

    def _put(self, value: Expr, at: Expr, line: Expr, depth: Expr, lanes: int) -> None:
        stage = self.stage
        if not stage.turned or stage.source.across or lanes == 1:
            put(stage.buffer, stage.place(at, line, depth), value, lanes)
            return
        held = registers(lanes, stage.source.dtype)
        put(held, 0, value, lanes)
        for i in range(lanes):
            put(stage.buffer, stage.place(at, line, depth + i), held[i], 1)
