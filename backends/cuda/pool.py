"""Pooling of channels-last images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx

from burnish.backends.cuda.conv import THREADS
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
    floordiv,
    floormod,
    grid,
    kernel,
    loop,
    name,
    product,
    put,
    read,
    shared,
    sync,
    unravel,
    when_all,
    write,
)


@dataclass(frozen=True)
class PoolSpec:
    """A pooling operator; ONNX MaxPool-22, AveragePool-22 and the Global ones.

    Attributes:
        kind: ``max`` or ``average``.
        image: Batch, rows, columns and channels of the input.
        output: The same of the output.
        dtype: Element type.
        kernel: Window height and width; None pools whole images.
        strides: Along rows and columns.
        pads: Top, left, bottom, right.
        dilations: Along rows and columns.
        count_include_pad: Average over padded positions too.
    """

    kind: Literal["max", "average"]
    image: tuple[Index, Index, Index, int]
    output: tuple[Index, Index, Index, int]
    dtype: str
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    count_include_pad: bool = False

    @property
    def start(self) -> Expr:
        """What the combination starts with."""
        return tirx.const(0.0 if self.kind == "average" else float("-inf"), "float32")

    def combine(self, old: Expr, value: Expr) -> Expr:
        """Take a further element in."""
        if self.kind == "average":
            return old + value
        return tirx.Select(old < value, value, old)


def pool(spec: PoolSpec) -> Kernel:
    """The kernel: image, result."""
    with kernel("pool") as k:
        x = k.input("x", spec.image, spec.dtype)
        y = k.output("y", spec.output, spec.dtype)
        if spec.kernel is None:
            _whole_images(spec, x, y)
        else:
            _windows(spec, spec.kernel, x, y)
    return k.result


def _windows(spec: PoolSpec, window: tuple[int, int], x: Tensor, y: Tensor) -> None:
    """A thread for each output."""
    _, height, width, channels = spec.image
    with grid(ceildiv(product(spec.output), THREADS), THREADS) as (block, thread):
        index = name(widened(block) * THREADS + thread)

        def one() -> None:
            picture, row, column, channel = unravel(index, spec.output)
            total, count = cell(spec.start), cell(tirx.const(0.0, "float32"))
            base = widened(picture) * height
            with loop(window[0]) as i, loop(window[1]) as j:
                r = name(row * spec.strides[0] - spec.pads[0] + i * spec.dilations[0])
                c = name(column * spec.strides[1] - spec.pads[1] + j * spec.dilations[1])
                inside = [r >= 0, *below(r, height), c >= 0, *below(c, width)]
                counted = inside
                if spec.count_include_pad:
                    # A window of ceil_mode may pass the padding.
                    counted = [
                        *below(r, height + spec.pads[2]),
                        *below(c, width + spec.pads[3]),
                    ]

                def add() -> None:
                    value = read(x, ((base + r) * width + c) * channels + channel)
                    put(total, 0, spec.combine(total[0], value), 1)

                def add_one() -> None:
                    put(count, 0, count[0] + tirx.const(1.0, "float32"), 1)

                when_all(inside, add)
                if spec.kind == "average":
                    when_all(counted, add_one)
            write(y, index, total[0] / count[0] if spec.kind == "average" else total[0])

        when_all(below(index, product(spec.output)), one)


def _whole_images(spec: PoolSpec, x: Tensor, y: Tensor) -> None:
    """A block for each image and 32 channels: its warps share the pixels."""
    batch, height, width, channels = spec.image
    groups = -(-channels // WARP)
    warps = THREADS // WARP
    pixels = height * width
    with grid(batch * groups, THREADS) as (block, thread):
        picture = name(floordiv(block, groups))
        lane, warp = name(floormod(thread, WARP)), name(floordiv(thread, WARP))
        channel = name(floormod(block, groups) * WARP + lane)
        total = cell(spec.start)

        def gather() -> None:
            with loop(ceildiv(pixels, warps)) as step:
                pixel = name(step * warps + warp)

                def add() -> None:
                    offset = (widened(picture) * pixels + pixel) * channels + channel
                    put(total, 0, spec.combine(total[0], read(x, offset)), 1)

                when_all(below(pixel, pixels), add)

        when_all(below(channel, channels), gather)
        parts: Any = shared(THREADS, "float32")
        put(parts, thread, total[0], 1)
        sync()

        def finish() -> None:
            for i in range(1, warps):
                put(total, 0, spec.combine(total[0], parts[lane + i * WARP]), 1)
            value = total[0]
            if spec.kind == "average":
                value = value / tirx.Cast("float32", widened_constant(pixels))
            write(y, widened(picture) * channels + channel, value)

        when_all([warp < 1, *below(channel, channels)], finish)


def widened_constant(value: Index) -> Expr:
    """An int64 expression of a size."""
    return tirx.const(value, "int64") if isinstance(value, int) else value
