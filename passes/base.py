"""What a pass is: a frozen dataclass that rewrites a graph in place."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from burnish.ir import Graph, Node, Value


class Numerics(enum.Enum):
    """What a rewrite may do to floating-point results; sets the tolerance of its tests."""

    #: Bit for bit the same result.
    EXACT = "exact"
    #: The same real-number formula, evaluated in another order or with constants combined.
    REASSOCIATES = "reassociates"
    #: Another formula, equal up to a stated error.
    APPROXIMATES = "approximates"
    #: The same formula on tensors that are rounded to 16 bits where they are stored.
    NARROWS = "narrows"
    #: The same formula on tensors that are rounded to 8 bits.
    QUANTIZES = "quantizes"


@dataclass
class PassContext:
    """What passes of one run share.

    Attributes:
        options: Settings that are no field of a pass.
        growth: By how many bytes folding has made the model larger so far.
        notes: Lines for the report: refused folds, nearest misses. The manager takes them after
            each pass.
        node: The node that a pass works on right now; named by the error when the pass fails.
        kept: Why nodes stay in float32 when a lower precision was asked for, by original name.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    growth: int = 0
    notes: list[str] = field(default_factory=list)
    node: Node | None = None
    kept: dict[str, str] = field(default_factory=dict)

    def note(self, text: str, at: Node | None = None) -> None:
        """Add a line to the report, once; ``at`` adds the original node names."""
        line = f"{text} (at {str(at.location) or at.name})" if at is not None else text
        if line not in self.notes:
            self.notes.append(line)

    def keep(self, node: Node, reason: str) -> None:
        """Say why a node stays in float32, for all original nodes that it stands for."""
        self.kept.update(dict.fromkeys(node.location.names or (node.name,), reason))

    @contextmanager
    def visiting(self, node: Node) -> Iterator[None]:
        """Name ``node`` in the error if the block fails."""
        self.node = node
        yield
        self.node = None


def counted(causes: Counter[str]) -> str:
    """Causes with their numbers, the most frequent first, for a line of the report."""
    return "; ".join(f"{count} x {cause}" for cause, count in causes.most_common())


class Pass(ABC):
    """A rewrite of a whole graph. Subclasses are frozen dataclasses; their fields are the options.

    The docstring's first line says what the pass does; the lines ``Before:``, ``After:``,
    ``Keeps:`` and ``Numerics:`` state its contract (the catalogue in ``passes/README.md`` is made
    of them).
    """

    name: ClassVar[str]
    numerics: ClassVar[Numerics] = Numerics.EXACT

    @abstractmethod
    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Rewrite ``graph`` in place, subgraphs included.

        Nodes may be left unsorted and unused: the manager sorts and removes dead code after.

        Returns:
            Whether the graph changed.
        """

    @property
    def spec(self) -> str:
        """Name and non-default options: ``fold-constants{max_growth_bytes=0}``."""
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in dataclasses.fields(self)  # type: ignore[arg-type]
            if getattr(self, f.name) != f.default
        ]
        return f"{self.name}{{{','.join(changed)}}}" if changed else self.name

    @classmethod
    def contract(cls) -> str:
        """The docstring, unindented."""
        return inspect.cleandoc(cls.__doc__ or "")


@dataclass(frozen=True)
class Fixpoint:
    """Passes that are repeated in turn until none of them changes the graph.

    Attributes:
        name: For errors and dumps.
        passes: The passes of one round.
        max_rounds: More rounds than this are an error.
    """

    name: str
    passes: tuple[Pass, ...]
    max_rounds: int = 32


Pipeline: TypeAlias = "Sequence[Pass | Fixpoint]"


def all_graphs(graph: Graph) -> Iterator[Graph]:
    """The graph, then its subgraphs at any depth."""
    yield graph
    for node in graph.nodes:
        for inner in node.subgraphs():
            yield from all_graphs(inner)


def defined(graph: Graph) -> list[Value]:
    """The inputs of a graph and what its own nodes make."""
    made = (v for node in graph.nodes for v in node.outputs if v is not None)
    return [*graph.inputs, *made]


def homes(graph: Graph) -> dict[Value, Graph]:
    """The graph or subgraph that each value belongs to; constants belong to none."""
    return {value: inner for inner in all_graphs(graph) for value in defined(inner)}


def inputs_and_captures(node: Node) -> Iterator[Value]:
    """Everything that a node reads: its inputs and what its subgraphs read."""
    yield from (v for v in node.inputs if v is not None)
    for inner in node.subgraphs():
        for used in inner.nodes:
            yield from inputs_and_captures(used)
        yield from inner.outputs
