"""Softmax and LogSoftmax (ONNX Softmax-13, LogSoftmax-13), over any axis.

Three passes over a row that stays in the first-level cache: maximum, exponential and sum, scale.
Arguments: ``x``, ``y``, both float32 of shape [*lead, length, *trail].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from burnish.backends.cpu import vmath
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rows import TASK_ELEMENTS, each_row, each_vector, fold_row
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    ceildiv,
    constant,
    floordiv,
    floormod,
    kernel,
    let,
    load,
    parallel,
    product,
    reduce_add,
    reduce_max,
    select,
    serial,
    splat,
    static,
)


@dataclass(frozen=True, eq=False)
class SoftmaxSpec:
    """What a softmax kernel computes.

    Attributes:
        lead: Dimensions before the axis: ints or int64 expressions.
        length: Size of the axis.
        trail: Dimensions after the axis.
        log: LogSoftmax instead of Softmax.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
    """

    lead: tuple[Index, ...]
    length: Index
    trail: tuple[Index, ...] = ()
    log: bool = False
    dtype: str = "float32"


def softmax(isa: Isa, spec: SoftmaxSpec, name: str = "softmax") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    shape = (*spec.lead, spec.length, *spec.trail)
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", shape)
        y = k.output("y", shape)
        inner = static(product(static(d) for d in spec.trail))
        outer = static(product(static(d) for d in spec.lead))
        if inner == 1:
            with each_row(outer, spec.length) as row:
                _row(isa, x, y, let(row * spec.length), static(spec.length), spec.log)
        else:
            _columns(isa, x, y, outer, static(spec.length), inner, spec.log)
    return k.result


def maximum(a: Expr, b: Expr) -> Expr:
    """The larger of two vectors; a NaN in ``b`` is passed over."""
    return select(a < b, b, a)


def _row(isa: Isa, x: Tensor, y: Tensor, base: Index, length: Index, log: bool) -> None:
    """One contiguous row."""
    lanes = isa.lanes

    def read(position: Index, valid: Index | None) -> Expr:
        return load(x.flat, base + position, lanes, valid, fill=-math.inf)

    top = splat(reduce_max(fold_row(length, lanes, read, maximum, -math.inf)), lanes)
    top = let(top)

    def term(position: Index, valid: Index | None) -> Expr:
        e = vmath.exp(read(position, valid) - top)
        if not log:
            y.store(base + position, e, valid)
        return e

    total = reduce_add(fold_row(length, lanes, term, lambda a, b: a + b, 0.0, chains=2))
    if log:
        shift = let(splat(vmath.log(total), lanes))
        each_vector(
            length,
            lanes,
            lambda p, v: y.store(base + p, (x.load(base + p, lanes, v) - top) - shift, v),
            unroll=4,
        )
    else:
        factor = let(splat(let(constant(1.0) / total), lanes))
        each_vector(
            length,
            lanes,
            lambda p, v: y.store(base + p, y.load(base + p, lanes, v) * factor, v),
            unroll=4,
        )


def _columns(
    isa: Isa, x: Tensor, y: Tensor, outer: Index, length: Index, inner: Index, log: bool
) -> None:
    """Vectors of neighbouring columns, each reduced along a stride of ``inner``."""
    lanes = isa.lanes
    blocks = ceildiv(inner, lanes)

    def block(row: Index, part: Index, valid: Index | None) -> None:
        base = let(row * length * inner + part * lanes)
        _column_block(lanes, x, y, base, length, inner, valid, log)

    def run(task: Index) -> None:
        row, part = let(floordiv(task, blocks)), let(floormod(task, blocks))
        tail = floormod(inner, lanes)
        if isinstance(inner, int) and tail == 0:
            block(row, part, None)
            return
        branch(
            part < floordiv(inner, lanes),
            lambda: block(row, part, None),
            lambda: block(row, part, let(tail)),
        )

    sizes = (outer, length, inner)
    small = all(isinstance(s, int) for s in sizes) and product(sizes) < 4 * TASK_ELEMENTS
    with serial(outer * blocks) if small else parallel(outer * blocks) as task:
        run(task)


def _column_block(
    lanes: int,
    x: Tensor,
    y: Tensor,
    base: Index,
    length: Index,
    stride: Index,
    valid: Index | None,
    log: bool,
) -> None:
    """Softmax of ``lanes`` columns (``valid`` of them exist)."""
    acc = Acc(2, lanes)
    acc[0] = constant(-math.inf, lanes)
    acc[1] = constant(0.0, lanes)
    with serial(length) as i:
        acc[0] = maximum(acc[0], x.load(base + i * stride, lanes, valid))
    top = let(acc[0])
    with serial(length) as i:
        e = vmath.exp(x.load(base + i * stride, lanes, valid) - top)
        if not log:
            y.store(base + i * stride, e, valid)
        acc[1] = acc[1] + e
    scale = vmath.log(acc[1]) if log else let(constant(1.0, lanes) / acc[1])
    with serial(length) as i:
        at = base + i * stride
        if log:
            y.store(at, (x.load(at, lanes, valid) - top) - scale, valid)
        else:
            y.store(at, y.load(at, lanes, valid) * scale, valid)
