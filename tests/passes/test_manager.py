"""The pass manager."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import pytest

from burnish.errors import PassError, UsageError, VerifyError
from burnish.importers.onnx_model import load
from burnish.ir import Builder, Graph, Value
from burnish.passes.base import Fixpoint, Pass, PassContext
from burnish.passes.canonicalize import Canonicalize
from burnish.passes.dead_code import DeadCode
from burnish.passes.fold_constants import FoldConstants
from burnish.passes.manager import PassManager, PassRecord, fingerprint, pass_names
from burnish.passes.pipelines import pipeline
from burnish.passes.simplify import Simplify
from tests.support import golden

TEXT = (
    "g (float[4] x) => (float[4] y) <float c = {2}, float d = {3}> "
    "{ a = Identity(x)  [scale] b = Mul(c, a)  e = Mul(b, d)  unused = Exp(x)  y = Relu(e) }"
)


@dataclass(frozen=True)
class Grow(Pass):
    """Put another Neg before the first output."""

    name: ClassVar[str] = "grow"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Change the graph every time."""
        node = graph.outputs[0].producer
        assert node is not None
        node.set_input(0, Builder(graph).op("Neg", node.required(0)))
        ctx.note("grown")
        return True


@dataclass(frozen=True)
class Explode(Pass):
    """Fail at the first Mul."""

    name: ClassVar[str] = "explode"
    fuse: int = 3

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Raise."""
        node = next(n for n in graph.nodes if n.op == "Mul")
        with ctx.visiting(node):
            raise KeyError("boom")


@dataclass(frozen=True)
class Lie(Pass):
    """Change something, or nothing, and say the opposite."""

    name: ClassVar[str] = "lie"
    change: bool = True

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Lie."""
        if self.change:
            graph.nodes[0].attrs["extra"] = 1
        return not self.change


@dataclass(frozen=True)
class Corrupt(Pass):
    """Leave a value without a type."""

    name: ClassVar[str] = "corrupt"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Break the graph."""
        graph.nodes[0].output.type = None
        return False


@dataclass(frozen=True)
class Swap(Pass):
    """Replace one operator by another that nothing was said about."""

    name: ClassVar[str] = "swap"
    old: str = "Relu"
    new: str = "Abs"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Make new nodes and values, as rewrites do."""
        found = [n for n in graph.nodes if n.op == self.old]
        for node in found:
            made = Builder(graph).op(self.new, node.required(0))
            graph.replace_uses(node.output, made)
            graph.remove(node)
        return bool(found)


@dataclass(frozen=True)
class SwapBack(Swap):
    """The inverse."""

    name: ClassVar[str] = "swap-back"
    old: str = "Abs"
    new: str = "Relu"


def test_records() -> None:
    graph = golden.parse(TEXT)
    seen: list[PassRecord] = []
    passes = [DeadCode(), Canonicalize(), Simplify(), Simplify()]
    manager = PassManager(passes, verify_ir=True, on_pass=seen.append)
    records = manager.run(graph)
    assert [r.name for r in records] == ["dead-code", "canonicalize", "simplify", "simplify"]
    assert [(r.nodes_before, r.nodes_after) for r in records] == [(5, 4), (4, 3), (3, 2), (2, 2)]
    assert [r.changed for r in records] == [True, True, True, False]
    assert all(r.seconds > 0 for r in records)
    assert seen == records


def test_notes_are_of_one_pass_only() -> None:
    records = PassManager([Grow(), DeadCode()]).run(golden.parse(TEXT))
    assert [r.notes for r in records] == [("grown",), ()]


def test_skip_and_only() -> None:
    passes = [DeadCode(), Canonicalize(), Simplify()]
    skipped = PassManager(passes, skip=["simplify"]).run(golden.parse(TEXT))
    assert [r.name for r in skipped] == ["dead-code", "canonicalize"]
    only = PassManager(passes, only=["simplify"]).run(golden.parse(TEXT))
    assert [r.name for r in only] == ["simplify"]


@pytest.mark.parametrize("option", ["skip", "only"])
def test_unknown_names_are_refused(option: str) -> None:
    with pytest.raises(UsageError) as caught:
        PassManager([DeadCode(), Simplify()], **{option: ["simplfy"]})  # type: ignore[arg-type]
    assert caught.value.message == "no pass is called 'simplfy'"
    assert caught.value.hint == "the passes of this pipeline are dead-code, simplify"


def test_dumps_run_on_onnxruntime(tmp_path: Path) -> None:
    graph = golden.parse(TEXT)
    PassManager([DeadCode(), Canonicalize(), DeadCode(), Simplify()], dump_dir=tmp_path).run(graph)
    names = sorted(p.name for p in tmp_path.iterdir())
    stages = ["00-imported", "01-dead-code", "02-canonicalize", "03-simplify"]
    assert names == [f"{s}.{end}" for s in stages for end in ("onnx", "txt")]
    x = np.array([1, -2, 3, 4], np.float32)
    for stage in stages:
        session = ort.InferenceSession(
            str(tmp_path / f"{stage}.onnx"), providers=["CPUExecutionProvider"]
        )
        np.testing.assert_allclose(session.run(None, {"x": x})[0], np.maximum(x * 6, 0))
    text = (tmp_path / "03-simplify.txt").read_text()
    assert "y = Relu (" in text
    assert "float32[] {6}" in text


def test_an_exception_names_the_pass_the_node_and_the_command() -> None:
    with pytest.raises(PassError) as caught:
        PassManager([DeadCode(), Explode(fuse=2)], model="m.onnx").run(golden.parse(TEXT))
    error = caught.value
    assert error.message == "pass explode{fuse=2} failed: KeyError('boom')"
    assert error.at == "scale: b = Mul (c, a)"
    assert error.hint == (
        "reproduce with: burnish optimize m.onnx OUT.onnx --verify-ir --only-pass dead-code "
        "--only-pass explode"
    )
    assert isinstance(error.__cause__, KeyError)


def test_with_dumps_the_command_starts_at_the_last_one(tmp_path: Path) -> None:
    manager = PassManager([DeadCode(), Explode()], dump_dir=tmp_path)
    with pytest.raises(PassError) as caught:
        manager.run(golden.parse(TEXT))
    assert caught.value.hint == (
        f"reproduce with: burnish optimize {tmp_path}/01-dead-code.onnx OUT.onnx --verify-ir "
        "--only-pass explode"
    )


def test_a_fixpoint_repeats_until_nothing_changes() -> None:
    records = PassManager([Fixpoint("all", (Canonicalize(), Simplify()))]).run(golden.parse(TEXT))
    assert [(r.name, r.changed) for r in records] == [
        ("canonicalize", True),
        ("simplify", True),
        ("canonicalize", False),
        ("simplify", False),
    ]


def test_a_fixpoint_that_does_not_settle_is_an_error() -> None:
    group = Fixpoint("growth", (DeadCode(), Grow()), max_rounds=5)
    with pytest.raises(PassError) as caught:
        PassManager([group]).run(golden.parse(TEXT))
    assert caught.value.message == (
        "growth does not settle: grow still changed the graph in round 5"
    )
    assert "--only-pass grow" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "said"), [(True, "did not change"), (False, "changed")], ids=["changed", "same"]
)
def test_a_wrong_answer_is_found(change: bool, said: str) -> None:
    with pytest.raises(PassError, match=f"lie says that it {said} the graph, which is not so"):
        PassManager([DeadCode(), Lie(change)], verify_ir=True).run(golden.parse(TEXT))


def test_an_invalid_result_is_found() -> None:
    with pytest.raises(PassError, match="corrupt left an invalid graph: every value has a type"):
        PassManager([Corrupt()], verify_ir=True).run(golden.parse(TEXT))


def test_an_invalid_graph_is_found_before_the_first_pass() -> None:
    graph = golden.parse(TEXT)
    graph.nodes[0].output.type = None
    with pytest.raises(VerifyError):
        PassManager([DeadCode()], verify_ir=True).run(graph)


def test_fingerprint_sees_every_change() -> None:
    graph = golden.parse(TEXT)

    def replace_input(value: Value) -> None:
        graph.nodes[1].set_input(0, value)

    changes = [
        lambda: graph.nodes[0].attrs.update(axis=1),
        lambda: setattr(graph.nodes[0], "op", "Abs"),
        lambda: replace_input(graph.inputs[0]),
        lambda: graph.set_outputs([graph.nodes[0].output]),
        lambda: graph.remove(graph.nodes[3]),
    ]
    seen = [fingerprint(graph)]
    for change in changes:
        change()
        seen.append(fingerprint(graph))
    assert all(a != b for a, b in pairwise(seen))
    assert fingerprint(graph) == seen[-1]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_pipelines(level: int) -> None:
    graph = golden.parse(TEXT)
    PassManager(pipeline(level), verify_ir=True).run(graph)
    feeds = golden.random_feeds(graph)
    golden.assert_equal_results(golden.parse(TEXT), graph, feeds, Simplify.numerics)


def test_levels_build_on_each_other() -> None:
    names = [pass_names(pipeline(level)) for level in (0, 1, 2)]
    assert set(names[0]) < set(names[1]) <= set(names[2])


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(UsageError, match=re.escape("there is no optimization level 7")):
        pipeline(7)


def test_the_growth_cap_reaches_the_folding_pass() -> None:
    folds = [
        p
        for entry in pipeline(1, max_fold_growth=123)
        for p in (entry.passes if isinstance(entry, Fixpoint) else (entry,))
        if isinstance(p, FoldConstants)
    ]
    assert folds
    assert all(p.max_growth_bytes == 123 for p in folds)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_operators_of_unknown_types_pass_through_every_level(level: int) -> None:
    text = """g (float[b, 4] x, int64[2] s) => (bool[m, n] y, float[m, n] z)
    <int64[2] h = {2, -1}, float c = {1}, int64[1] k = {0}> {
        f = foo.Bar(x)  r = Relu(f)  t = Transpose(r)  u = Reshape(t, h)  v = Identity(u)
        a = Add(v, c)  p = Sum(a)  d = Cast<to = 1>(p)  q = Shape(d)  w = Gather(q, s)
        e = Expand(d, w)  l = Slice(e, k, s)  m1 = ReduceSum(l, k)  y = Equal(m1, c)
        z = Where(y, l, c)
    }"""
    header = '<ir_version: 10, opset_import: ["": 18, "foo": 1]>\n'
    graph = load(onnx.parser.parse_model(header + text))
    PassManager(pipeline(level)).run(graph)
    assert "foo::Bar" in [n.key for n in graph.nodes]
    assert [v.name for v in graph.outputs] == ["y", "z"]


def test_passes_that_undo_each_other_are_named() -> None:
    text = "g (float[4] x) => (float[4] y) { a = Relu(x)  y = Neg(a) }"
    group = Fixpoint("circle", (DeadCode(), Swap(), Canonicalize(), SwapBack()))
    manager = PassManager([group])
    with pytest.raises(PassError) as caught:
        manager.run(golden.parse(text))
    assert caught.value.message == (
        "circle does not settle: swap and swap-back undo each other's work, "
        "and round 5 left the graph of round 4"
    )
    assert caught.value.hint is not None
    assert "--only-pass swap-back" in caught.value.hint
    assert len(manager.records) == 5 * 4


def test_growth_is_not_taken_for_a_circle() -> None:
    with pytest.raises(PassError, match="grow still changed the graph in round 12"):
        PassManager([Fixpoint("endless", (Grow(),), max_rounds=12)]).run(golden.parse(TEXT))
