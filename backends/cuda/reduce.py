"""Reductions of float tensors over their last axes: a warp for each result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx

from burnish.backends.cuda.epilogue import number
from burnish.backends.cuda.rows import along, combined, each_row
from burnish.backends.cuda.tir import Expr, Index, Kernel, cell, i64, kernel, name, put, read, write
from burnish.lowering.ops.common import maximum, minimum


def _same(x: Expr) -> Expr:
    return x


def _square(x: Expr) -> Expr:
    x = name(x)
    return x * x


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


@dataclass(frozen=True)
class _Op:
    """A reduction: of each element, of two partial results, of the result."""

    combine: Callable[[Expr, Expr], Expr]
    identity: float
    before: Callable[[Expr], Expr] = _same
    after: Callable[[Expr], Expr] = _same


#: By ONNX operator; ``ReduceMean`` divides as well.
OPS: dict[str, _Op] = {
    "ReduceSum": _Op(_add, 0.0),
    "ReduceMean": _Op(_add, 0.0),
    "ReduceMax": _Op(maximum, -math.inf),
    "ReduceMin": _Op(minimum, math.inf),
    "ReduceProd": _Op(lambda a, b: a * b, 1.0),
    "ReduceL1": _Op(_add, 0.0, tirx.abs),
    "ReduceL2": _Op(_add, 0.0, _square, tirx.sqrt),
    "ReduceSumSquare": _Op(_add, 0.0, _square),
    "ReduceLogSum": _Op(_add, 0.0, _same, tirx.log),
}


@dataclass(frozen=True)
class ReduceSpec:
    """A reduction.

    Attributes:
        op: A key of :data:`OPS`.
        shape: Shape of the input.
        output: Shape of the result, with or without the reduced dimensions.
        rows: Number of results.
        width: Elements of each: they are neighbours.
        in_dtype: Element type of the input.
        out_dtype: Element type of the result.
    """

    op: str
    shape: tuple[Index, ...]
    output: tuple[Index, ...]
    rows: Index
    width: Index
    in_dtype: str
    out_dtype: str


def reduce(spec: ReduceSpec) -> Kernel:
    """The kernel: x, result."""
    op = OPS[spec.op]
    with kernel("reduce") as k:
        x = k.input("x", spec.shape, spec.in_dtype)
        y = k.output("y", spec.output, spec.out_dtype)
        with each_row(spec.rows) as (row, lane):
            base = name(row * spec.width)
            total = cell(number(op.identity))
            with along(spec.width, lane) as i:
                put(total, 0, op.combine(total[0], op.before(read(x, base + i))), 1)
            value = name(combined(total[0], op.combine))
            if spec.op == "ReduceMean":
                value = value / tirx.Cast("float32", i64(spec.width))
            write(y, row, op.after(value))
    return k.result
