"""Runs a pipeline: order, verification, dumps, timing, errors with the command to reproduce."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeAlias

from burnish.errors import BurnishError, CalibrationError, PassError, UsageError, VerifyError
from burnish.ir import Attr, Graph, Value
from burnish.ir.text import graph_text, node_text
from burnish.ir.verify import verify
from burnish.passes.base import Fixpoint, Pass, PassContext, Pipeline, all_graphs
from burnish.passes.dead_code import remove_dead_code
from burnish.passes.structure import structure_hash

#: A fixpoint that needs more rounds than this is watched for coming back to an earlier graph.
_ROUNDS_UNWATCHED = 3


@dataclass(frozen=True)
class PassRecord:
    """One run of one pass."""

    name: str
    nodes_before: int
    nodes_after: int
    seconds: float
    changed: bool
    notes: tuple[str, ...] = ()


@dataclass
class PassManager:
    """Runs passes over a graph.

    Attributes:
        pipeline: Passes and fixpoint groups, in order.
        skip: Names of passes that are left out.
        only: If not empty, names of the passes that run; the others are left out.
        verify_ir: Check the invariants before the first pass and after every pass, and that each
            pass tells the truth about having changed the graph.
        dump_dir: Folder that gets the graph before the first pass and after every pass that changed
            it, as ``NN-name.onnx`` and ``NN-name.txt``.
        model: The model's file, for the command in error messages.
        arguments: Further arguments of that command.
        on_pass: Called with every record as it is made.
        check_results: Called after every pass that changed the graph; says what is wrong with the
            results of the graph that it left, or nothing.
    """

    pipeline: Pipeline
    skip: Sequence[str] = ()
    only: Sequence[str] = ()
    verify_ir: bool = False
    dump_dir: Path | None = None
    model: str = "MODEL.onnx"
    arguments: Sequence[str] = ()
    on_pass: Callable[[PassRecord], None] | None = None
    check_results: Callable[[Pass, Graph], str] | None = None
    records: list[PassRecord] = field(default_factory=list, init=False)
    _dumps: list[Path] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        known = pass_names(self.pipeline)
        for name in (*self.skip, *self.only):
            if name not in known:
                raise UsageError(
                    f"no pass is called {name!r}",
                    hint=f"the passes of this pipeline are {', '.join(known)}",
                )

    def run(self, graph: Graph, ctx: PassContext | None = None) -> list[PassRecord]:
        """Run the pipeline on ``graph`` in place.

        Raises:
            PassError: A pass failed, left an invalid graph, or a fixpoint was not reached.
            VerifyError: The graph was invalid before the first pass.
        """
        ctx = ctx or PassContext()
        if self.verify_ir:
            verify(graph)
        self._dump(graph, "imported")
        for entry in self.pipeline:
            if isinstance(entry, Fixpoint):
                self._run_fixpoint(entry, graph, ctx)
            else:
                self._run_pass(entry, graph, ctx)
        return self.records

    def _enabled(self, item: Pass) -> bool:
        return item.name not in self.skip and (not self.only or item.name in self.only)

    def _run_fixpoint(self, group: Fixpoint, graph: Graph, ctx: PassContext) -> None:
        rounds: list[list[str]] = []
        seen: dict[int, int] = {}
        while len(rounds) < group.max_rounds:
            changed = [p.name for p in group.passes if self._run_pass(p, graph, ctx)]
            if not changed:
                return
            rounds.append(changed)
            if len(rounds) <= _ROUNDS_UNWATCHED:
                continue
            first = seen.setdefault(structure_hash(graph), len(rounds))
            if first != len(rounds):
                names = list(dict.fromkeys(name for names in rounds[first:] for name in names))
                who = f"{' and '.join(names)} undo each other's work"
                if len(names) == 1:
                    who = f"{names[0]} undoes its own work"
                back = f"round {len(rounds)} left the graph of round {first}"
                self._unsettled(group, f"{who}, and {back}")
        still = ", ".join(rounds[-1])
        self._unsettled(group, f"{still} still changed the graph in round {group.max_rounds}")

    def _unsettled(self, group: Fixpoint, why: str) -> NoReturn:
        hint = self._reproduce([p.name for p in group.passes])
        raise PassError(f"{group.name} does not settle: {why}", hint=hint)

    def _run_pass(self, item: Pass, graph: Graph, ctx: PassContext) -> bool:
        if not self._enabled(item):
            return False
        before = fingerprint(graph) if self.verify_ir else None
        nodes_before = count_nodes(graph)
        start = time.perf_counter()
        try:
            changed = item.run(graph, ctx)
            if changed:
                clean(graph)
        except CalibrationError:
            raise  # about the samples that the pass measured on, not about the pass
        except Exception as error:
            raise self._failed(item, ctx, error) from error
        seconds = time.perf_counter() - start
        if before is not None:
            self._check(item, graph, changed, before)
        record = PassRecord(
            item.name, nodes_before, count_nodes(graph), seconds, changed, tuple(ctx.notes)
        )
        ctx.notes.clear()
        self.records.append(record)
        if self.on_pass is not None:
            self.on_pass(record)
        if changed:
            self._check_results(item, graph)
            self._dump(graph, item.name)
        return changed

    def _check_results(self, item: Pass, graph: Graph) -> None:
        problem = self.check_results(item, graph) if self.check_results is not None else ""
        if problem:
            raise PassError(
                f"pass {item.spec} changes the results: {problem}",
                hint=self._reproduce([item.name], "--verify-passes"),
            )

    def _check(self, item: Pass, graph: Graph, changed: bool, before: Fingerprint) -> None:
        try:
            verify(graph)
        except VerifyError as error:
            raise PassError(
                f"{item.name} left an invalid graph: {error.message}",
                at=error.at,
                hint=self._reproduce([item.name]),
            ) from error
        if changed != (fingerprint(graph) != before):
            raise PassError(
                f"{item.name} says that it {'changed' if changed else 'did not change'} the "
                "graph, which is not so",
                hint=self._reproduce([item.name]),
            )

    def _failed(self, item: Pass, ctx: PassContext, error: Exception) -> PassError:
        message = error.message if isinstance(error, BurnishError) else repr(error)
        at = None
        if ctx.node is not None:
            at = f"{str(ctx.node.location) or ctx.node.name}: {node_text(ctx.node)}"
        elif isinstance(error, BurnishError):
            at = error.at
        return PassError(
            f"pass {item.spec} failed: {message}", at=at, hint=self._reproduce([item.name])
        )

    def _reproduce(self, last: Sequence[str], check: str = "--verify-ir") -> str:
        """The command that runs the failing pass on the graph that it failed on."""
        if self._dumps:
            model, names = str(self._dumps[-1]), list(last)
        else:
            model = self.model
            names = list(dict.fromkeys([*(r.name for r in self.records if r.changed), *last]))
        options = " ".join([*self.arguments, check, *(f"--only-pass {name}" for name in names)])
        return f"reproduce with: burnish optimize {model} OUT.onnx {options}"

    def _dump(self, graph: Graph, name: str) -> None:
        if self.dump_dir is None:
            return
        from burnish.export import save

        self.dump_dir.mkdir(parents=True, exist_ok=True)
        path = self.dump_dir / f"{len(self._dumps):02d}-{name}.onnx"
        save(graph, path)
        path.with_suffix(".txt").write_text(graph_text(graph))
        self._dumps.append(path)


def pass_names(pipeline: Pipeline) -> tuple[str, ...]:
    """Names of all passes of a pipeline in order, each once."""
    names: dict[str, None] = {}
    for entry in pipeline:
        for item in entry.passes if isinstance(entry, Fixpoint) else (entry,):
            names[item.name] = None
    return tuple(names)


def clean(graph: Graph) -> None:
    """Remove dead code and sort the graph and its subgraphs."""
    remove_dead_code(graph)
    for inner in all_graphs(graph):
        inner.sort()


def count_nodes(graph: Graph) -> int:
    """Nodes of a graph and its subgraphs."""
    return sum(1 for _ in graph.walk())


Fingerprint: TypeAlias = "tuple[object, ...]"


def fingerprint(graph: Graph) -> Fingerprint:
    """A value that changes when the structure of the graph does.

    Two fingerprints of one graph are equal if and only if its nodes, edges, attributes, constants
    (by identity) and outputs are the same.
    """

    def of(value: Value | None) -> object:
        return value if value is None or value.const is None else (value, value.const)

    def attribute(value: Attr) -> object:
        return fingerprint(value) if isinstance(value, Graph) else value

    nodes = tuple(
        (
            node,
            node.op,
            node.domain,
            tuple(map(of, node.inputs)),
            tuple(node.outputs),
            tuple((k, attribute(v)) for k, v in node.attrs.items()),
        )
        for node in sorted(graph.nodes, key=id)
    )
    return (tuple(graph.inputs), tuple(map(of, graph.outputs)), nodes)
