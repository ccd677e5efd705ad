"""Several ways to compute one composite, and who chooses among them.

A composite has *tactics*: kernels with other tiles or algorithms, or a library's operation. Sources
yield those that a node can have; a :class:`Chooser` takes one and says why. The cost table chooses
by itself without measuring; other choosers know what was measured on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from burnish.artifact import ONLY_TACTIC
from burnish.errors import LoweringError
from burnish.ir import Node, Value
from burnish.lowering.scope import canonical_symbols, rename

if TYPE_CHECKING:
    from burnish.lowering.context import NodeContext

#: Tactics that the message of a choice names.
_NAMED = 4


@dataclass(frozen=True, eq=False)
class Tactic:
    """One way to compute a composite.

    Attributes:
        name: Unique among the tactics of one node: ``direct 7x2``, ``winograd-f2``, ``onednn``.
        cost: Estimated cycles of one core; compared within a composite only.
        emit: Emits the calls and binds the node's outputs.
        library: Whose operation it is; empty for generated kernels.
    """

    name: str
    cost: float
    emit: Callable[[], None]
    library: str = ""


#: Yields the tactics of one kind that a node can have.
Source: TypeAlias = "Callable[[NodeContext, Node], Iterable[Tactic]]"


@dataclass(frozen=True)
class Problem:
    """What a choice is made for: nodes with equal problems get equal tactics.

    Attributes:
        composite: ``burnish::Conv``.
        isa: The instruction set of the target.
        form: Types of the operands and attributes, symbols by canonical names.
        symbolic: Whether a size is known to the run only.
    """

    composite: str
    isa: str
    form: str
    symbolic: bool = False

    @property
    def key(self) -> str:
        """As one line of text."""
        return f"{self.composite} {self.isa} {self.form}"


@dataclass(frozen=True)
class Choice:
    """A tactic, and why it was taken."""

    tactic: Tactic
    why: str


class Chooser(Protocol):
    """Takes one of the tactics that a node can have."""

    def choose(self, problem: Problem, tactics: Sequence[Tactic]) -> Choice:
        """One of ``tactics``, of which there is at least one; names are unique."""


@dataclass(frozen=True)
class CostTable:
    """Takes the tactic with the least estimated cost.

    Attributes:
        library: ``auto`` for any, ``none`` for generated kernels only, or the name of a library
            whose tactics are taken wherever there are some.
    """

    library: str = "auto"

    def choose(self, problem: Problem, tactics: Sequence[Tactic]) -> Choice:
        """The cheapest of the tactics that ``library`` allows."""
        allowed = permitted(tactics, self.library)
        best = min(allowed, key=lambda t: t.cost)
        if len(allowed) == 1:
            if len(tactics) == 1:
                return Choice(best, ONLY_TACTIC)
            return Choice(best, f"{ONLY_TACTIC} with --library {self.library}")
        ranked = sorted(allowed, key=lambda t: t.cost)
        costs = ", ".join(f"{t.name} {t.cost / 1e3:.4g}" for t in ranked[:_NAMED])
        return Choice(best, f"cost table, in thousands of cycles: {costs}")


def permitted(tactics: Sequence[Tactic], library: str) -> list[Tactic]:
    """The tactics that ``--library`` allows: see :class:`CostTable`."""
    if library == "auto":
        return list(tactics)
    generated = [t for t in tactics if not t.library]
    if library == "none":
        return generated
    return [t for t in tactics if t.library == library] or generated


@dataclass(frozen=True)
class ByTactics:
    """The ``emit`` of a kernel rule that has tactics.

    Attributes:
        sources: Where they come from; a node's first source has to yield one.
    """

    sources: tuple[Source, ...]

    def __call__(self, ctx: NodeContext, node: Node) -> None:
        """Have a tactic chosen, and emit it."""
        tactics = [t for source in self.sources for t in source(ctx, node)]
        if not tactics:
            raise LoweringError(f"{node.key} has no tactic")
        choice = ctx.function.module.chooser.choose(problem_of(node, ctx.isa.name), tactics)
        ctx.choice = choice
        choice.tactic.emit()

    def plus(self, *sources: Source) -> ByTactics:
        """With further sources."""
        return ByTactics((*self.sources, *sources))


def by_tactics(*sources: Source) -> ByTactics:
    """What a kernel rule emits that has several tactics."""
    return ByTactics(sources)


def problem_of(node: Node, isa: str) -> Problem:
    """What the choice of a node's tactic depends on."""
    values = [*node.inputs, *node.outputs]
    names = canonical_symbols(v.shape for v in values if v is not None)

    def operand(value: Value | None) -> str:
        if value is None:
            return "-"
        dims = ",".join(map(str, rename(value.shape, names)))
        return f"{'const ' if value.is_const else ''}{value.dtype}[{dims}]"

    operands = " ".join(map(operand, node.inputs))
    results = " ".join(map(operand, node.outputs))
    attributes = " ".join(f"{k}={_spell(v)}" for k, v in sorted(node.attrs.items()))
    form = " ".join(filter(None, (operands, "->", results, attributes)))
    return Problem(node.key, isa, form, symbolic=bool(names))


def _spell(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ",".join(map(_spell, value)) + "]"
    return str(value)
