"""Convolutions over channels-last images: as products, and channel by channel."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cuda.arch import Arch
from burnish.backends.cuda.epilogue import Epilogue
from burnish.backends.cuda.gemm import pack as pack_matrix
from burnish.backends.cuda.gemm import packed_shape, packed_source
from burnish.backends.cuda.product import (
    Problem,
    Tile,
    choose_splits,
    choose_tile,
    multiply,
)
from burnish.backends.cuda.sources import Geometry, Lines, Pixels, widened
from burnish.backends.cuda.staging import Source
from burnish.backends.cuda.tir import (
    Expr,
    Index,
    Kernel,
    Tensor,
    below,
    ceildiv,
    cell,
    common_lanes,
    floordiv,
    grid,
    kernel,
    name,
    product,
    put,
    read,
    unravel,
    when_all,
)
from burnish.ir.postops import PostOp

Array = npt.NDArray[np.generic]

#: Threads of a block of the kernels that have a thread for each element.
THREADS = 256


@dataclass(frozen=True)
class ConvSpec:
    """A convolution with post-ops.

    Attributes:
        image: Batch, rows, columns and channels of the input.
        output: Batch, rows, columns and channels of the output.
        kernel: Height and width.
        strides: Along rows and columns.
        pads: Top, left, bottom, right; what lies outside of the image is zero.
        dilations: Along rows and columns.
        groups: Groups of channels.
        dtype: Element type of image, weights and result.
        postops: What happens to the result.
        operands: Element types of the post-ops' operands.
    """

    image: tuple[Index, Index, Index, int]
    output: tuple[Index, Index, Index, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int
    dtype: str
    postops: tuple[PostOp, ...] = ()
    operands: tuple[str, ...] = ()

    @property
    def group_channels(self) -> int:
        """Input channels of a group."""
        return self.image[3] // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.output[3] // self.groups

    @property
    def depth(self) -> int:
        """Elements under a window."""
        return self.kernel[0] * self.kernel[1] * self.group_channels

    @property
    def problem(self) -> Problem:
        """The convolution as a product for each group."""
        pixels = product(self.output[:3])
        return Problem(self.groups, pixels, self.group_outputs, self.depth)

    @property
    def is_depthwise(self) -> bool:
        """Whether each output channel sees one input channel."""
        return self.group_channels == 1 and self.groups > 1

    @property
    def is_pointwise(self) -> bool:
        """Whether the image is the left operand as it lies."""
        return self.kernel == self.strides == (1, 1) and self.pads == (0, 0, 0, 0)

    def tile(self, arch: Arch) -> Tile:
        """How it is cut."""
        return choose_tile(self.problem, self.dtype, arch.multiprocessors)


def packed_conv_shape(spec: ConvSpec, tile: Tile) -> tuple[int, int, int]:
    """Shape of packed weights."""
    return (spec.groups, *packed_shape(spec.depth, spec.group_outputs, tile))


def pack_conv(weights: Array, spec: ConvSpec, tile: Tile) -> Array:
    """Weights [O, I/group, height, width] as a matrix of whole tiles for each group."""
    by_group = weights.reshape(spec.groups, spec.group_outputs, spec.group_channels, *spec.kernel)
    matrices = by_group.transpose(0, 3, 4, 2, 1).reshape(
        spec.groups, spec.depth, spec.group_outputs
    )
    return np.stack([pack_matrix(m, tile) for m in matrices])


def conv(arch: Arch, spec: ConvSpec) -> Kernel:
    """The kernel: image, packed weights, operands of the post-ops, result."""
    problem, tile = spec.problem, spec.tile(arch)
    channels, outputs = spec.image[3], spec.output[3]
    with kernel("conv") as k:
        x = k.input("x", spec.image, spec.dtype)
        w = k.input("w", packed_conv_shape(spec, tile), spec.dtype)
        epilogue = Epilogue.declare(k, spec.postops, spec.operands, spec.output)
        y = k.output("y", spec.output, spec.dtype)
        lanes = common_lanes(spec.dtype, gcd(channels, spec.group_channels))

        def operands(group: Expr) -> tuple[Source, Source]:
            alone = spec.groups == 1
            first = 0 if alone else name(group * spec.group_channels)
            size = w.shape[1] * w.shape[2]
            right = packed_source(w, 0 if alone else name(widened(group) * size))
            if spec.is_pointwise:
                rows = problem.rows
                return Lines(x, first, channels, rows, spec.depth, lanes), right
            return Pixels(x, _geometry(spec), first, problem.rows, lanes), right

        def store(group: Expr, row: Expr, column: Expr, value: Expr) -> None:
            channel = column if spec.groups == 1 else name(group * spec.group_outputs + column)
            epilogue.store(y, value, name(widened(row) * outputs + channel), channel)

        splits = choose_splits(problem, tile, arch.multiprocessors)
        multiply(problem, tile, operands, store, spec.dtype, splits)
    return k.result


def _geometry(spec: ConvSpec) -> Geometry:
    return Geometry(
        height=spec.image[1],
        width=spec.image[2],
        channels=spec.image[3],
        group_channels=spec.group_channels,
        out_height=spec.output[1],
        out_width=spec.output[2],
        kernel=spec.kernel,
        strides=spec.strides,
        pads=spec.pads[:2],
        dilations=spec.dilations,
    )


def pack_depthwise(weights: Array) -> Array:
    """Weights [O, 1, height, width] as [height * width, O]."""
    return np.ascontiguousarray(weights.reshape(weights.shape[0], -1).T)


def depthwise(arch: Arch, spec: ConvSpec) -> Kernel:
    """The kernel of a convolution whose outputs see one channel: a thread for each output.

    Arguments: image, weights [height * width, outputs], operands of the post-ops, result.
    """
    channels, outputs = spec.image[3], spec.output[3]
    with kernel("depthwise") as k:
        x = k.input("x", spec.image, spec.dtype)
        w = k.input("w", (spec.kernel[0] * spec.kernel[1], outputs), spec.dtype)
        epilogue = Epilogue.declare(k, spec.postops, spec.operands, spec.output)
        y = k.output("y", spec.output, spec.dtype)
        with grid(ceildiv(product(spec.output), THREADS), THREADS) as (block, thread):
            index = name(widened(block) * THREADS + thread)

            def one() -> None:
                picture, row, column, output = unravel(index, spec.output)
                channel = floordiv(output, spec.group_outputs)
                total = cell(tirx.const(0.0, "float32"))
                for i in range(spec.kernel[0]):
                    r = name(row * spec.strides[0] - spec.pads[0] + i * spec.dilations[0])
                    for j in range(spec.kernel[1]):
                        c = name(column * spec.strides[1] - spec.pads[1] + j * spec.dilations[1])
                        _tap(
                            x,
                            w,
                            total,
                            (picture, r, c, channel),
                            i * spec.kernel[1] + j,
                            output,
                            channels,
                        )
                epilogue.store(y, total[0], index, output)

            when_all(below(index, product(spec.output)), one)
    return k.result


def _tap(
    x: Tensor,
    w: Tensor,
    total: object,
    at: tuple[Index, Index, Index, Index],
    tap: int,
    output: Index,
    channels: int,
) -> None:
    _, height, width, _ = x.shape
    picture, row, column, channel = at
    inside = [row >= 0, *below(row, height), column >= 0, *below(column, width)]
    offset = ((widened(picture) * height + row) * width + column) * channels + channel

    def add() -> None:
        put(total, 0, total[0] + read(x, offset) * read(w, tap * w.shape[1] + output), 1)  # type: ignore[index]

    when_all(inside, add)
