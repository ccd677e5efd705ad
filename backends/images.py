"""What every backend reads of convolutions and pools: windows, and pictures in two dims."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from burnish.backends.base import Refused
from burnish.ir import Dim, Node
from burnish.lowering.context import Lowered, NodeContext
from burnish.lowering.scope import Index


@dataclass(frozen=True)
class Window:
    """Spatial attributes in two dims; a 1-D operator has one row.

    Attributes:
        kernel: Height and width.
        strides: Along rows and columns.
        pads: Top, left, bottom, right.
        dilations: Along rows and columns.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]

    def transposed(self) -> Window:
        """Rows and columns exchanged."""
        top, left, bottom, right = self.pads
        return Window(
            self.kernel[::-1], self.strides[::-1], (left, top, right, bottom), self.dilations[::-1]
        )


def window(node: Node, kernel: tuple[int, ...]) -> Window:
    """The window of a composite with one or two spatial axes."""
    rank = len(kernel)
    ones = (1,) * rank
    strides = node.ints_attr("strides", ones)
    pads = node.ints_attr("pads", (0,) * (2 * rank))
    dilations = node.ints_attr("dilations", ones)
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (0, pads[0], 0, pads[1]), (1, dilations[0]))
    h, w = kernel
    top, left, bottom, right = pads
    return Window(
        (h, w), (strides[0], strides[1]), (top, left, bottom, right), (dilations[0], dilations[1])
    )


def refuse_layout(node: Node) -> Refused | None:
    """Refuse what is not channels-last with one or two spatial axes."""
    layout = node.str_attr("data_format")
    return None if layout in ("NWC", "NHWC") else Refused(f"no kernel for layout {layout}")


def image(ctx: NodeContext, tensor: Lowered) -> Lowered:
    """A channels-last tensor with two spatial axes: [N, W, C] gets one row."""
    if len(tensor.dims) == 4:
        return tensor
    n, w, c = tensor.dims
    return ctx.reshape(tensor, (n, 1, w, c))


def image_dims(dims: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """The shape that :func:`image` gives."""
    return dims if len(dims) == 4 else (dims[0], 1, *dims[1:])


def channels(dim: Dim) -> int:
    """A channel count, which is always static."""
    assert isinstance(dim, int)
    return dim


def any_size(dims: tuple[Dim, ...]) -> tuple[Index, ...]:
    """Sizes for packing: what is not static is some variable."""
    return tuple(d if isinstance(d, int) else tirx.Var("size", "int64") for d in dims)


def refuse_filters(node: Node) -> Refused | None:
    """Refuse convolutions whose weights or number of channels are not known when they are built."""
    if not node.required(1).is_const:
        return Refused("the weights are not constant")
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    return refuse_layout(node)
