"""Normalization over rows: LayerNormalization-17, RMSNormalization-23, GroupNormalization-21.

Mean first, then the centred variance (never E[x^2] - E[x]^2), both over a row that stays in the
first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tvm import tirx

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rows import each_row, each_vector, fold_row
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    Tensor,
    constant,
    first_lanes,
    floormod,
    kernel,
    let,
    product,
    reduce_add,
    select,
    serial,
    splat,
    static,
)
from burnish.ir.postops import PostOp

#: Reads ``lanes`` elements at a position of the row; lanes that are not valid are 0.
Read = Callable[[Index, Index | None], Expr]


@dataclass(frozen=True, eq=False)
class NormSpec:
    """What :func:`norm` computes: ``y = post(normalize(x [+ skip]) * scale [+ bias])``.

    Attributes:
        lead: Dimensions before the last: ints or int64 expressions.
        width: Last dimension, which is normalized.
        kind: ``layer`` (mean and variance) or ``rms`` (mean square).
        epsilon: Added to the variance.
        scale: Whether there is a scale.
        bias: Whether there is a bias.
        skip: Whether a second input is added before normalizing.
        sum_output: Whether ``x + skip`` is a second output.
        postops: Applied to the result.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
    """

    lead: tuple[Index, ...]
    width: int
    kind: Literal["layer", "rms"] = "layer"
    epsilon: float = 1e-5
    scale: bool = True
    bias: bool = False
    skip: bool = False
    sum_output: bool = False
    postops: tuple[PostOp, ...] = ()
    dtype: str = "float32"


def norm(isa: Isa, spec: NormSpec, name: str = "norm") -> Kernel:
    """Build the kernel of ``spec``.

    Arguments, all float32: ``x`` [*lead, width], ``skip`` (same shape), ``scale`` [width], ``bias``
    [width] as far as the spec has them, the operands of the post-ops, ``y``, the sum.
    """
    shape = (*spec.lead, spec.width)
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", shape)
        skip = k.input("skip", shape) if spec.skip else None
        scale = k.input("scale", (spec.width,)) if spec.scale else None
        bias = k.input("bias", (spec.width,)) if spec.bias else None
        epilogue = Epilogue.declare(k, spec.postops, shape)
        y = k.output("y", shape)
        total = k.output("sum", shape) if spec.sum_output else y
        rows = static(product(static(d) for d in spec.lead))
        with each_row(rows, spec.width) as row:
            base = let(row * spec.width)
            addend = None
            source = x
            if skip is not None and (spec.dtype == "float32" or spec.sum_output):
                _add_row(isa, x, skip, total, base, spec.width)
            if skip is not None and spec.dtype == "float32":
                # The row of the sum is kept where it is needed anyway.
                source = total
            elif skip is not None:
                # Added again at every reading: what is stored is rounded.
                addend = skip
            _norm_row(isa, spec, (source, addend), y, base, (scale, bias, epilogue))
    return k.result


def _add_row(isa: Isa, x: Tensor, skip: Tensor, total: Tensor, base: Index, width: int) -> None:
    def add(p: Index, valid: Index | None) -> None:
        a, b = x.load(base + p, isa.lanes, valid), skip.load(base + p, isa.lanes, valid)
        total.store(base + p, a + b, valid)

    each_vector(width, isa.lanes, add, unroll=4)


def _norm_row(
    isa: Isa,
    spec: NormSpec,
    terms: tuple[Tensor, Tensor | None],
    y: Tensor,
    base: Index,
    affine: tuple[Tensor | None, Tensor | None, Epilogue],
) -> None:
    lanes = isa.lanes
    scale, bias, epilogue = affine

    source, addend = terms

    def read(p: Index, valid: Index | None) -> Expr:
        value = source.load(base + p, lanes, valid)
        return value if addend is None else value + addend.load(base + p, lanes, valid)

    mean, factor = statistics(lanes, spec.width, read, spec.epsilon, centred=spec.kind == "layer")

    def write(p: Index, valid: Index | None) -> None:
        value = read(p, valid)
        value = value * factor if mean is None else (value - mean) * factor
        if scale is not None:
            value = value * scale.load(p, lanes, valid)
        if bias is not None:
            value = value + bias.load(p, lanes, valid)
        value = epilogue.start(let(value), base + p, p, valid)
        y.store(base + p, epilogue.finish(value, base + p, p, valid), valid)

    each_vector(spec.width, lanes, write, unroll=1 if epilogue.deferred else 4)


def statistics(
    lanes: int, length: Index, read: Read, epsilon: float, centred: bool
) -> tuple[Expr | None, Expr]:
    """Mean (None if not ``centred``) and ``1 / sqrt(variance + epsilon)`` of a row, as vectors."""
    count = constant(float(length)) if isinstance(length, int) else tirx.Cast("float32", length)
    count = let(count)
    mean: Expr | None = None
    if centred:
        mean = let(splat(let(reduce_add(fold_row(length, lanes, read, _add, 0.0)) / count), lanes))

    def square(p: Index, valid: Index | None) -> Expr:
        value = read(p, valid)
        if mean is not None:
            value = value - mean
            if valid is not None:
                value = select(first_lanes(valid, lanes), value, constant(0.0, lanes))
        value = let(value)
        return value * value

    variance = let(reduce_add(fold_row(length, lanes, square, _add, 0.0)) / count)
    root = let(tirx.sqrt(variance + constant(epsilon)))
    return mean, let(splat(let(constant(1.0) / root), lanes))


def _add(a: Expr, b: Expr) -> Expr:
    return a + b


@dataclass(frozen=True, eq=False)
class GroupNormSpec:
    """What :func:`group_norm` computes, on channels-first data.

    Attributes:
        batch: First dimension.
        channels: Second dimension.
        spatial: Further dimensions.
        groups: Groups of neighbouring channels with statistics of their own; as many as channels
            makes it InstanceNormalization-22.
        epsilon: Added to the variance.
        dtype: Element type of the tensors, ``float32`` or a 16-bit float; sums are float32.
    """

    batch: Index
    channels: int
    spatial: tuple[Index, ...]
    groups: int
    epsilon: float = 1e-5
    dtype: str = "float32"


def group_norm(isa: Isa, spec: GroupNormSpec, name: str = "group_norm") -> Kernel:
    """Build the kernel of ``spec``.

    Arguments, all float32: ``x`` [batch, channels, *spatial], ``scale`` [channels], ``bias``
    [channels], ``y`` like ``x``.
    """
    shape = (spec.batch, spec.channels, *spec.spatial)
    each = spec.channels // spec.groups
    lanes = isa.lanes
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", shape)
        scale = k.input("scale", (spec.channels,))
        bias = k.input("bias", (spec.channels,))
        y = k.output("y", shape)
        area = static(product(static(d) for d in spec.spatial))
        length = static(area * each)
        length = length if isinstance(length, int) else let(length)
        with each_row(spec.batch * spec.groups, length) as row:
            base = let(row * length)
            group = let(floormod(row, spec.groups))

            def read(p: Index, valid: Index | None, base: Index = base) -> Expr:
                return x.load(base + p, lanes, valid)

            mean, factor = statistics(lanes, length, read, spec.epsilon, centred=True)
            with serial(each) as c:
                channel = let(group * each + c)
                a = let(splat(let(scale.load(channel)), lanes) * factor)
                b = let(splat(let(bias.load(channel)), lanes))
                start = let(base + c * area)

                def write(p: Index, valid: Index | None) -> None:
                    value = (x.load(start + p, lanes, valid) - mean) * a + b
                    y.store(start + p, value, valid)

                each_vector(area, lanes, write, unroll=4)
    return k.result
