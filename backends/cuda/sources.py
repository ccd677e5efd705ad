"""Where the elements of a product's operands lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx

from burnish.backends.cuda.tir import (
    Expr,
    Index,
    Tensor,
    below,
    floordiv,
    floormod,
    i64,
    name,
    pin,
    vector,
)


@dataclass(frozen=True)
class Lines:
    """A matrix whose neighbours in memory lie along the depth: A of ``A @ B``, B of ``A @ B.T``.

    Attributes:
        tensor: The tensor that it is a part of.
        offset: Flat offset of its first element.
        stride: Elements from one line to the next.
        count: Number of lines.
        depth: Length of a line.
        lanes: Elements of an access.
    """

    tensor: Tensor
    offset: Index
    stride: Index
    count: Index
    depth: Index
    lanes: int

    across = False

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tensor.dtype

    def line(self, index: Expr) -> Any:
        """Offset of the line, and whether there is such a line."""
        start = i64(self.offset) + widened(index) * self.stride
        return pin_multiple(start, self.lanes), below(index, self.count)

    def load(self, line: Any, depth: Expr) -> tuple[Expr, list[Expr]]:
        """Elements of a line."""
        start, exists = line
        value = vector(self.tensor.flat, start + depth, self.lanes)
        return value, [*exists, *below(depth, self.depth)]


@dataclass(frozen=True)
class Across:
    """A matrix [depth, columns], row-major: B of ``A @ B``.

    Attributes:
        tensor: The tensor that it is a part of.
        offset: Flat offset of its first element.
        stride: Elements from one depth to the next.
        columns: Number of columns.
        depth: Length of the sums.
        lanes: Elements of an access.
        padded: Whole tiles exist in memory: nothing needs to be checked.
    """

    tensor: Tensor
    offset: Index
    stride: Index
    columns: Index
    depth: Index
    lanes: int
    padded: bool = False

    across = True

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tensor.dtype

    def line(self, index: Expr) -> Any:
        """The column, and whether there is such a column."""
        return i64(self.offset) + index, [] if self.padded else below(index, self.columns)

    def load(self, line: Any, depth: Expr) -> tuple[Expr, list[Expr]]:
        """Neighbouring columns at a depth."""
        start, exists = line
        value = vector(self.tensor.flat, start + widened(depth) * self.stride, self.lanes)
        return value, [] if self.padded else [*exists, *below(depth, self.depth)]


@dataclass(frozen=True)
class Geometry:
    """A convolution over a channels-last image.

    Attributes:
        height: Rows of the input.
        width: Columns of the input.
        channels: Channels of the input, all groups.
        group_channels: Channels that one output sees.
        out_height: Rows of the output.
        out_width: Columns of the output.
        kernel: Height and width of the window.
        strides: Along rows and columns.
        pads: Top and left.
        dilations: Along rows and columns.
    """

    height: Index
    width: Index
    channels: int
    group_channels: int
    out_height: Index
    out_width: Index
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int]
    dilations: tuple[int, int]


@dataclass(frozen=True)
class Pixels:
    """The image as a matrix: a line for each output pixel, along it what the window covers.

    The depth counts window rows, window columns and channels, in this order (im2col without the
    copy).

    Attributes:
        tensor: The image.
        geometry: The convolution.
        channel: First channel.
        count: Number of output pixels.
        lanes: Elements of an access.
    """

    tensor: Tensor
    geometry: Geometry
    channel: Index
    count: Index
    lanes: int

    across = False

    @property
    def dtype(self) -> str:
        """Element type."""
        return self.tensor.dtype

    def line(self, index: Expr) -> Any:
        """Offset of the picture, and the window's first row and column."""
        g = self.geometry
        x = name(floormod(index, g.out_width))
        rest = name(floordiv(index, g.out_width))
        y, picture = name(floormod(rest, g.out_height)), name(floordiv(rest, g.out_height))
        size = g.height * g.width * g.channels
        start = pin_multiple(widened(picture) * size + self.channel, self.lanes)
        row = pin(y * g.strides[0] - g.pads[0])
        column = pin(x * g.strides[1] - g.pads[1])
        return start, row, column, below(index, self.count)

    def load(self, line: Any, depth: Expr) -> tuple[Expr, list[Expr]]:
        """Channels of one pixel under the window; outside of the picture there are none."""
        start, row, column, exists = line
        g = self.geometry
        spot, channel = floordiv(depth, g.group_channels), floormod(depth, g.group_channels)
        y = name(row + floordiv(spot, g.kernel[1]) * g.dilations[0])
        x = name(column + floormod(spot, g.kernel[1]) * g.dilations[1])
        inside = [y >= 0, *below(y, g.height), x >= 0, *below(x, g.width)]
        offset = (y * g.width + x) * g.channels + channel
        value = vector(self.tensor.flat, start + offset, self.lanes)
        total = g.kernel[0] * g.kernel[1] * g.group_channels
        return value, [*exists, *inside, *below(depth, total)]


def pin_multiple(value: Expr, of: int) -> Expr:
    """An evaluated multiple of ``of``: TVM emits a vector access only where it sees that."""
    return pin(floordiv(value, of)) * of


def widened(value: Index) -> Index:
    """An index whose multiples may pass int32."""
    if isinstance(value, int):
        return value
    return tirx.Cast("int64", value) if str(value.ty.dtype) == "int32" else value
