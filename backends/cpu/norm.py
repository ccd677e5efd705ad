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
from burnish.backends.cpu.requantize import QUAD, Rounding, store_codes
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
        codes: How the result is rounded to 8 bits, the first output then; None if it is not.
        scale_of_codes: Distance of neighbouring codes.
        result: Whether the result is an output as it is.
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
    codes: Rounding | None = None
    scale_of_codes: float = 1.0
    result: bool = True


def norm(isa: Isa, spec: NormSpec, name: str = "norm") -> Kernel:
    """Build the kernel of ``spec``.

    Arguments, all float32: ``x`` [*lead, width], ``skip`` (same shape), ``scale`` [width], ``bias``
    [width] as far as the spec has them, the operands of the post-ops; then the codes, the result
    and the sum.
    """
    shape = (*spec.lead, spec.width)
    with kernel(name, isa, spec.dtype) as k:
        x = k.input("x", shape)
        skip = k.input("skip", shape) if spec.skip else None
        scale = k.input("scale", (spec.width,)) if spec.scale else None
        bias = k.input("bias", (spec.width,)) if spec.bias else None
        epilogue = Epilogue.declare(k, spec.postops, shape)
        codes = k.output("codes", shape, spec.codes.dtype) if spec.codes else None
        y = k.output("y", shape) if spec.result else None
        total = k.output("sum", shape) if spec.sum_output else None
        rows = static(product(static(d) for d in spec.lead))
        with each_row(rows, spec.width) as row:
            base = let(row * spec.width)
            _Row(isa, spec, base, x, skip, total, scale, bias, epilogue, codes, y).emit()
    return k.result


@dataclass(frozen=True)
class _Row:
    """One row, from ``base`` on, with the arguments of the kernel."""

    isa: Isa
    spec: NormSpec
    base: Index
    x: Tensor
    skip: Tensor | None
    total: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    epilogue: Epilogue
    codes: Tensor | None
    y: Tensor | None

    def emit(self) -> None:
        """Read it, twice, and write it."""
        spec, lanes = self.spec, self.isa.lanes
        first, read = self._reads()
        centred = spec.kind == "layer"
        mean, factor = statistics(lanes, spec.width, read, spec.epsilon, centred, first)

        def value(p: Index, valid: Index | None) -> Expr:
            value = read(p, valid)
            value = value * factor if mean is None else (value - mean) * factor
            if self.scale is not None:
                value = value * self.scale.load(p, lanes, valid)
            if self.bias is not None:
                value = value + self.bias.load(p, lanes, valid)
            value = self.epilogue.start(let(value), self.base + p, p, valid)
            value = self.epilogue.finish(value, self.base + p, p, valid)
            if self.codes is not None:
                value = let(value)
            if self.y is not None:
                self.y.store(self.base + p, value, valid)
            return value

        if self.codes is None:
            each_vector(spec.width, lanes, value, unroll=1 if self.epilogue.deferred else 4)
        else:
            self._write_codes(self.codes, value)

    def _reads(self) -> tuple[Read, Read]:
        """How the row is read the first time, and then.

        A sum is kept where it is needed anyway. One that is stored in 16 bits would be rounded: it
        is added again.
        """
        skip, lanes = self.skip, self.isa.lanes
        if skip is None:
            read = lambda p, valid: self.x.load(self.base + p, lanes, valid)  # noqa: E731
            return read, read
        kept = self.total or (self.y if self.spec.dtype == "float32" else None)

        def add(p: Index, valid: Index | None) -> Expr:
            at = self.base + p
            return self.x.load(at, lanes, valid) + skip.load(at, lanes, valid)

        def keep(p: Index, valid: Index | None) -> Expr:
            value = let(add(p, valid))
            assert kept is not None
            kept.store(self.base + p, value, valid)
            return value

        def again(p: Index, valid: Index | None) -> Expr:
            assert kept is not None
            return kept.load(self.base + p, lanes, valid)

        if kept is None:
            return add, add
        return keep, again if self.spec.dtype == "float32" else add

    def _write_codes(self, codes: Tensor, value: Read) -> None:
        """Round four vectors at a time."""
        spec, lanes = self.spec, self.isa.lanes
        assert spec.codes is not None
        rounding, inverse = spec.codes, constant(1.0 / spec.scale_of_codes, lanes)

        def store(p: Index, count: int) -> None:
            made = []
            for start in range(0, count, lanes):
                valid = count - start if count - start < lanes else None
                made.append(let(value(p + start, valid) * inverse))
            store_codes(codes, self.base + p, rounding.codes(self.isa, made), count)

        whole, rest = divmod(spec.width, QUAD * lanes)
        if whole:
            with serial(whole) as i:
                store(let(i * (QUAD * lanes)), QUAD * lanes)
        if rest:
            store(whole * QUAD * lanes, rest)


def statistics(
    lanes: int,
    length: Index,
    read: Read,
    epsilon: float,
    centred: bool,
    first: Read | None = None,
) -> tuple[Expr | None, Expr]:
    """Mean (None if not ``centred``) and ``1 / sqrt(variance + epsilon)`` of a row, as vectors.

    What is read ``first`` may be read otherwise.
    """
    count = constant(float(length)) if isinstance(length, int) else tirx.Cast("float32", length)
    count = let(count)
    mean: Expr | None = None
    first = first or read
    if centred:
        mean = let(splat(let(reduce_add(fold_row(length, lanes, first, _add, 0.0)) / count), lanes))
        first = read

    def square(p: Index, valid: Index | None) -> Expr:
        value = first(p, valid)
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
