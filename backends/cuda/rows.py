"""Softmax and normalizations: a warp for each row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from burnish.backends.cuda.epilogue import Epilogue, number
from burnish.backends.cuda.sources import widened
from burnish.backends.cuda.tir import (
    WARP,
    Expr,
    Index,
    Kernel,
    Tensor,
    below,
    ceildiv,
    cell,
    conjunction,
    floordiv,
    floormod,
    grid,
    kernel,
    loop,
    name,
    product,
    put,
    read,
    when,
    write,
)
from burnish.ir.postops import PostOp
from burnish.lowering.ops.common import is_nan

#: Rows of a block.
ROWS = 4
_ALL_LANES = 0xFFFFFFFF


@contextmanager
def each_row(rows: Index) -> Iterator[tuple[Expr, Expr]]:
    """A warp for each row; yields the row (int64) and the thread's lane."""
    with grid(ceildiv(rows, ROWS), ROWS * WARP) as (block, thread):
        row = name(widened(block) * ROWS + floordiv(thread, WARP))
        condition = conjunction(below(row, rows))
        with when(condition):
            yield row, name(floormod(thread, WARP))


@contextmanager
def along(width: Index, lane: Expr) -> Iterator[Expr]:
    """The thread's columns of a row."""
    with loop(ceildiv(width, WARP)) as step:
        column = name(step * WARP + lane)
        condition = conjunction(below(column, width))
        with when(condition):
            yield column


def combined(value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """The values of a warp's threads, combined; every thread gets the result."""
    total = cell(value)
    mask = tirx.const(_ALL_LANES, "uint32")
    distance = WARP // 2
    while distance:
        # Read once, by all threads: an exchange in a branch of `combine` would be one of some.
        other = cell(
            tirx.call_intrin(
                "float32", "tirx.tvm_warp_shuffle_xor", mask, total[0], distance, WARP, WARP
            )
        )
        put(total, 0, combine(total[0], other[0]), 1)
        distance //= 2
    return total[0]


def _larger(a: Expr, b: Expr) -> Expr:
    return tirx.Select(a < b, b, a)


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


@dataclass(frozen=True)
class SoftmaxSpec:
    """Softmax or its logarithm over one axis.

    Attributes:
        outer: Product of the dims before the axis.
        length: The axis.
        inner: Product of the dims behind the axis.
        log: LogSoftmax.
    """

    outer: Index
    length: Index
    inner: Index
    log: bool = False


def softmax(spec: SoftmaxSpec, shape: tuple[Index, ...], in_dtype: str, out_dtype: str) -> Kernel:
    """The kernel: x, result of the same shape."""
    with kernel("softmax") as k:
        x = k.input("x", shape, in_dtype)
        y = k.output("y", shape, out_dtype)
        with each_row(spec.outer * spec.inner) as (row, lane):
            base = name(
                floordiv(row, spec.inner) * (spec.length * spec.inner) + floormod(row, spec.inner)
            )
            softmax_row(
                spec.length,
                lane,
                lambda i: read(x, base + widened(i) * spec.inner),
                lambda i, value: write(y, base + widened(i) * spec.inner, value),
                log=spec.log,
            )
    return k.result


def softmax_row(
    length: Index,
    lane: Expr,
    load: Callable[[Expr], Expr],
    store: Callable[[Expr, Expr], None],
    *,
    log: bool = False,
    nan_to_zero: bool = False,
) -> None:
    """Softmax of one row by a warp."""
    largest, total = cell(number(float("-inf"))), cell(number(0.0))
    with along(length, lane) as i:
        put(largest, 0, _larger(largest[0], load(i)), 1)
    most = name(combined(largest[0], _larger))
    with along(length, lane) as i:
        put(total, 0, total[0] + tirx.exp(load(i) - most), 1)
    whole = name(combined(total[0], _add))
    shift = name(most + tirx.log(whole)) if log else None
    with along(length, lane) as i:
        value = tirx.exp(load(i) - most) / whole if shift is None else load(i) - shift
        value = name(value)
        if nan_to_zero:
            # Every score of the row is masked.
            value = tirx.Select(is_nan(value), number(0.0), value)
        store(i, value)


@dataclass(frozen=True)
class NormSpec:
    """A normalization over the last axis, perhaps of a sum.

    Attributes:
        rows: Leading dims.
        width: The last axis.
        kind: ``layer`` or ``rms``.
        epsilon: Added to the variance.
        scale: Whether there is a scale.
        bias: Whether there is a bias.
        skip: Normalize ``x + skip``.
        keep_sum: That sum is a result as well.
        dtypes: Element types of all arguments but the operands.
        postops: What happens to the result.
        operands: Element types of the post-ops' operands.
    """

    rows: tuple[Index, ...]
    width: int
    kind: Literal["layer", "rms"]
    epsilon: float
    scale: bool
    bias: bool
    skip: bool
    keep_sum: bool
    dtypes: tuple[str, ...]
    postops: tuple[PostOp, ...] = ()
    operands: tuple[str, ...] = ()


def norm(spec: NormSpec) -> Kernel:
    """The kernel: x, skip, scale, bias, operands, result, sum; as far as there are any."""
    shape = (*spec.rows, spec.width)
    kinds = iter(spec.dtypes)
    with kernel("norm") as k:
        x = k.input("x", shape, next(kinds))
        skip = k.input("skip", shape, next(kinds)) if spec.skip else None
        scale = k.input("scale", (spec.width,), next(kinds)) if spec.scale else None
        bias = k.input("bias", (spec.width,), next(kinds)) if spec.bias else None
        epilogue = Epilogue.declare(k, spec.postops, spec.operands, shape)
        y = k.output("y", shape, next(kinds))
        kept = k.output("sum", shape, next(kinds)) if spec.keep_sum else None
        with each_row(product(spec.rows)) as (row, lane):
            _norm_row(spec, row, lane, (x, skip, scale, bias), epilogue, y, kept)
    return k.result


def _norm_row(
    spec: NormSpec,
    row: Expr,
    lane: Expr,
    inputs: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    epilogue: Epilogue,
    y: Tensor,
    kept: Tensor | None,
) -> None:
    x, skip, scale, bias = inputs
    base = name(row * spec.width)

    def element(i: Expr) -> Expr:
        value = read(x, base + i)
        return value if skip is None else value + read(skip, base + i)

    def mean_of(term: Callable[[Expr], Expr]) -> Expr:
        total = cell(number(0.0))
        with along(spec.width, lane) as i:
            put(total, 0, total[0] + term(i), 1)
        return name(combined(total[0], _add) / number(spec.width))

    mean = mean_of(element) if spec.kind == "layer" else None

    def centered(i: Expr) -> Expr:
        return element(i) if mean is None else element(i) - mean

    def squared(i: Expr) -> Expr:
        value = name(centered(i))
        return value * value

    factor = name(number(1.0) / tirx.sqrt(mean_of(squared) + number(spec.epsilon)))
    with along(spec.width, lane) as i:
        value = name(centered(i) * factor)
        if scale is not None:
            value = value * read(scale, i)
        if bias is not None:
            value = value + read(bias, i)
        if kept is not None:
            write(kept, base + i, element(i))
        epilogue.store(y, value, base + i, i)


__all__ = ["NormSpec", "SoftmaxSpec", "along", "each_row", "norm", "softmax", "softmax_row"]
