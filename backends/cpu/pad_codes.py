"""Copies of images in 8 bits with the padding of a convolution written out."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    Kernel,
    Tensor,
    branch,
    floordiv,
    floormod,
    hold,
    i64,
    kernel,
    load,
    parallel,
    serial,
    static,
    store,
)


@dataclass(frozen=True, eq=False)
class PadSpec:
    """A padded copy.

    Attributes:
        n: Batch.
        h: Rows.
        w: Columns.
        c: Channels.
        pads: Top, left, bottom, right.
        channels: Channels of the copy.
        value: The code that fills the padding.
        dtype: ``uint8`` or ``int8``.
        groups: The channels that a copy has more lie behind each of these.
    """

    n: Index
    h: Index
    w: Index
    c: int
    pads: tuple[int, int, int, int]
    channels: int
    value: int
    dtype: str
    groups: int = 1


def pad_codes(isa: Isa, spec: PadSpec, name: str = "pad_codes") -> Kernel:
    """A copy of ``x`` [N, H, W, C] with the padding of a convolution written out."""
    top, left, bottom, right = spec.pads
    height, width = static(spec.h + (top + bottom)), static(spec.w + (left + right))
    with kernel(name, isa) as k:
        x = k.input("x", (spec.n, spec.h, spec.w, spec.c), spec.dtype)
        y = k.output("y", (spec.n, height, width, spec.channels), spec.dtype)
        with parallel(spec.n * height) as task:
            image, row = hold(floordiv(task, height)), hold(floormod(task, height))
            inside = tirx.all(i64(row) >= top, i64(row) < spec.h + top)
            to = hold(task * (width * spec.channels))
            source = (image * spec.h + (row - top)) * (spec.w * spec.c)
            branch(
                inside,
                lambda: _row(spec, x, y, hold(source), to),
                lambda: _fill(y, to, width * spec.channels, spec),
            )
    return k.result


def _row(spec: PadSpec, x: Tensor, y: Tensor, source: Index, to: Index) -> None:
    """A row of the image, with what stands before and behind it."""
    _, left, _, right = spec.pads
    _fill(y, to, left * spec.channels, spec)
    begin = hold(to + left * spec.channels)
    if spec.channels == spec.c:
        _copy(x, y, source, begin, spec.w * spec.c)
    else:
        narrow, wide = spec.c // spec.groups, spec.channels // spec.groups
        with serial(spec.w * spec.groups) as part:
            at, place = hold(source + part * narrow), hold(begin + part * wide)
            _copy(x, y, at, place, narrow)
            _fill(y, place + narrow, wide - narrow, spec)
    _fill(y, hold(begin + spec.w * spec.channels), right * spec.channels, spec)


def _copy(x: Tensor, y: Tensor, source: Index, to: Index, count: Index) -> None:
    with serial(count) as i:
        store(y.flat, to + i, load(x.flat, source + i))


def _fill(y: Tensor, to: Index, count: Index, spec: PadSpec) -> None:
    value: Expr = tirx.const(spec.value, spec.dtype)
    if not isinstance(count, int) or count > 0:
        with serial(count) as i:
            store(y.flat, to + i, value)
