"""A product with a one-hot matrix becomes a table look-up.

::

    (ids == [0 .. n-1]) @ w  =  gather([w; 0], ids if 0 <= ids < n else n)
    f(gather(w, ids))        =  gather(f(w), ids)   for elementwise f with constant operands
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from burnish.ir import Builder, Node, Value
from burnish.ir.opinfo import is_elementwise
from burnish.ir.types import BY_NAME, INTEGERS, to_numpy
from burnish.passes.patterns import Match, NodePattern, NoMatch, Tracer, const
from burnish.passes.rewrite import PatternRule, Replacement, Result, RewritePass, Rule
from burnish.passes.rows import reshape


class OneHotProduct(PatternRule):
    """cast(ids == arange(n)) @ w => gather(w with a row of zeros, ids)."""

    name = "one-hot-product"

    def pattern(self, op: Any, ids: Any) -> NodePattern:
        """A comparison with a range along the last axis, cast and multiplied by a matrix."""
        hot = op.Cast(op.Equal(ids, const("classes"), _as="equal"), _as="cast")
        made: NodePattern = op.MatMul(hot, const("w"))
        return made

    def rewrite(self, m: Match, b: Builder) -> Result:
        """Look up; ids out of range find the row of zeros."""
        ids, classes, w = m["ids"], m["classes"].array, m["w"]
        count = classes.size
        if w.t.rank != 2 or m.node("cast").output.dtype != w.dtype:
            return NoMatch("the right operand is no matrix", w)
        if ids.dtype not in INTEGERS or classes.shape[-1:] != (count,):
            return NoMatch("the classes do not lie along the last axis", m["classes"])
        if not np.array_equal(classes.reshape(-1), np.arange(count)):
            return NoMatch("the classes are not 0, 1, 2, ...", m["classes"])
        rank = len(ids.shape)
        if rank != len(m.node("equal").output.shape) or ids.shape[-1] != 1:
            return NoMatch("the ids are not broadcast along the last axis", ids)
        if not np.all(np.isfinite(w.array)):
            return NoMatch("an infinite weight times zero is not a number", w)
        if len(w.uses) > 1:
            return NoMatch("the weights are shared: a row of zeros would copy them", w)
        flat = reshape(b, ids, ids.shape[:-1])
        if flat is None:
            return NoMatch("the shape of the ids cannot be written", ids)
        if ids.dtype not in ("int32", "int64"):
            flat = b.op("Cast", flat, to=BY_NAME["int64"].onnx)
        # Ids out of range are clipped to n or -1; both name the row of zeros at the end.
        dtype = to_numpy(flat.dtype)
        low, high = (b.constant(np.asarray(v, dtype)) for v in (-1, count))
        clipped = b.op("Min", b.op("Max", flat, low), high)
        zeros = np.zeros((1, w.array.shape[1]), w.array.dtype)
        table = b.constant(np.concatenate([w.array, zeros]), w.name)
        return b.op("Gather", table, clipped, axis=0)


class ElementwiseAfterGather(Rule):
    """f(gather(w, ids)) => gather(f(w), ids) when the table is smaller than what is looked up."""

    name = "elementwise-after-gather"
    anchors = ("Add", "Mul", "Sub", "Gelu", "Relu", "Sigmoid", "Tanh", "Swish", "Cast")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Compute on the table; folding makes it a constant."""
        runtime = [v for v in node.inputs if v is not None and not v.is_const]
        if len(runtime) != 1 or not is_elementwise(node):
            return NoMatch("it has several run-time operands", node)
        gather = runtime[0].producer
        if gather is None or gather.key != "Gather" or gather.graph is not node.graph:
            return NoMatch("it does not follow a look-up", node)
        table = gather.required(0)
        if gather.int_attr("axis") != 0 or not _known(table) or table.t.rank != 2:
            return NoMatch("rows of a constant matrix are not what is looked up", gather)
        if runtime[0].single_user() is not node:
            return NoMatch("the rows are used elsewhere", gather)
        ids = gather.required(1)
        rows = table.shape[0]
        assert isinstance(rows, int)
        count = int(np.prod([d if isinstance(d, int) else 1 for d in ids.shape]))
        if rows > max(count, 1024) or len(table.uses) > 1:
            return NoMatch("the table is larger than what is looked up", table)
        if any(not _along_last(v, table) for v in node.inputs if v is not None and v.is_const):
            return NoMatch("an operand does not lie along the last axis", node)
        inputs = [
            table if v is runtime[0] else None if v is None else _flat(b, v) for v in node.inputs
        ]
        changed = b.node(node.op, inputs, node.attrs).output
        return Replacement({node.output: b.op("Gather", changed, ids, axis=0)}, (gather, node))


def _known(value: Value) -> bool:
    """Whether a value is a constant, or will be one after folding."""
    node = value.producer
    if value.is_const or node is None:
        return value.is_const
    return is_elementwise(node) and all(v is None or _known(v) for v in node.inputs)


def _along_last(value: Value, table: Value) -> bool:
    size = value.array.size
    return size == 1 or (size == table.shape[1] and value.array.shape[-1] == size)


def _flat(b: Builder, value: Value) -> Value:
    return b.constant(value.array.reshape(-1), value.name) if value.array.ndim != 1 else value


@dataclass(frozen=True)
class FuseLookups(RewritePass):
    """Turn products with one-hot matrices into look-ups, and compute on tables ahead of time.

    Before: Equal(ids, arange) -> Cast -> MatMul -> Add -> Gelu.
    After: Gather in a table of results.
    Keeps: tables larger than what is looked up, shared tables, weights that are not finite.
    Numerics: exact.
    """

    name = "fuse-lookups"
    rules: ClassVar[tuple[Rule, ...]] = (OneHotProduct(), ElementwiseAfterGather())
