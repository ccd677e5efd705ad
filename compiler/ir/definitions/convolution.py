"""``Conv`` and ``ConvTranspose`` with post-ops, in either data format."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.epilogue import apply_postops
from burnish.ir.graph import Node, Value

CONV_ATTRS = ("strides", "pads", "dilations", "group")
CONV_TRANSPOSE_ATTRS = (*CONV_ATTRS, "output_padding")


def channels_first_format(rank: int) -> str:
    """``NCW``, ``NCHW`` or ``NCDHW``."""
    return {3: "NCW", 4: "NCHW", 5: "NCDHW"}[rank]


def channels_last_format(rank: int) -> str:
    """``NWC``, ``NHWC`` or ``NDHWC``."""
    return {3: "NWC", 4: "NHWC", 5: "NDHWC"}[rank]


def is_channels_last(node: Node) -> bool:
    """Whether the activations of a composite lie with the channels last."""
    return node.str_attr("data_format").endswith("C")


def to_channels_last(rank: int) -> tuple[int, ...]:
    """The permutation of ``Transpose`` from channels first to channels last."""
    return (0, *range(2, rank), 1)


def to_channels_first(rank: int) -> tuple[int, ...]:
    """The permutation of ``Transpose`` from channels last to channels first."""
    return (0, rank - 1, *range(1, rank - 1))


def run_channels_first(
    b: Builder, node: Node, x: Value, op: str, inputs: Sequence[Value], names: Sequence[str]
) -> Value:
    """The operator ``op`` in the node's data format; attributes ``names`` are passed on."""
    rank = len(x.shape)
    attrs = {name: node.attrs[name] for name in names if name in node.attrs}
    if not is_channels_last(node):
        return b.node(op, [x, *inputs], attrs).output
    first = b.op("Transpose", x, perm=to_channels_first(rank))
    y = b.node(op, [first, *inputs], attrs).output
    return b.op("Transpose", y, perm=to_channels_last(rank))


@define("Conv")
def conv(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``Conv(x, w, *operands)``; ONNX Conv-22 and post-ops.

    ``x`` is [N, C, *spatial] or [N, *spatial, C] by ``data_format`` (NCW, NWC, NCHW, NHWC, NCDHW,
    NDHWC); ``w`` is always [O, I/group, *kernel]; channel operands are [O]; full operands have the
    result's shape in the same data format.
    """
    x, w, *operands = inputs
    assert x is not None
    assert w is not None
    y = run_channels_first(b, node, x, "Conv", [w], CONV_ATTRS)
    return [apply_postops(b, node, y, operands, -1 if is_channels_last(node) else 1)]


@define("ConvTranspose")
def conv_transpose(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``ConvTranspose(x, w, *operands)``; as ``Conv``, but ``w`` is [I, O/group, *kernel]."""
    x, w, *operands = inputs
    assert x is not None
    assert w is not None
    y = run_channels_first(b, node, x, "ConvTranspose", [w], CONV_TRANSPOSE_ATTRS)
    return [apply_postops(b, node, y, operands, -1 if is_channels_last(node) else 1)]
