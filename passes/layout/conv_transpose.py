"""Transposed convolutions whose windows do not overlap are matrix products.

With stride = kernel size = s and no padding, every input pixel makes its own s x s block::

    y[n, s*h + i, s*w + j, o] = sum_c x[n, h, w, c] * w[c, o, i, j]

So the columns of one product are the (i, j, o) of a block, and a permutation of blocks follows.
"""

from __future__ import annotations

import numpy as np

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.definitions.convolution import (
    is_channels_last,
    to_channels_first,
    to_channels_last,
)
from burnish.ir.definitions.epilogue import apply_postops
from burnish.ir.postops import operands, parse_postops
from burnish.passes.axes import transposed
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.rewrite import Replacement, Rule

#: Fewer columns than this leave the widest vectors unfilled.
FEW_COLUMNS = 16


class ConvTransposeToMatMul(Rule):
    """convtranspose(x; stride = kernel) => depth-to-space(matmul(x, w))."""

    name = "conv-transpose-to-matmul"
    numerics = Numerics.REASSOCIATES
    anchors = ("burnish::ConvTranspose",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """One product, and the blocks put in their places."""
        if is_channels_last(node):
            return NoMatch("it has the channels last already", node)
        x, w = node.required(0), node.required(1).array
        refused = overlaps(node, w.shape[2:])
        if refused:
            return NoMatch(refused, node)
        rank, block = w.ndim, w.shape[2]
        kinds = operands(parse_postops(node.strs_attr("postops")))
        if "full" in kinds:
            return NoMatch("an operand of a post-op has the result's shape", node)
        # [C, O, i, j] to [C, i, j, O]: a column for each pixel of the block and channel.
        columns = np.ascontiguousarray(w.transpose(0, *range(2, rank), 1)).reshape(w.shape[0], -1)
        copies = block ** (rank - 2)
        weights = b.constant(columns, node.required(1).name)
        inputs: list[Value | None] = [transposed(b, x, to_channels_last(rank)), weights]
        attrs: dict[str, Attr] = {"postops": ()}
        # With few columns, most of a vector would be computed in vain: better later, in a row.
        late = columns.shape[1] < FEW_COLUMNS
        if not late:
            attrs["postops"] = node.strs_attr("postops")
            for value, kind in zip(node.inputs[2:], kinds, strict=True):
                assert value is not None
                tiled = np.tile(value.array, copies) if kind == "channel" else None
                inputs.append(value if tiled is None else b.constant(tiled, value.name))
        product = b.node("MatMul", inputs, attrs, domain="burnish").output
        if rank == 3:
            wide = b.op("Reshape", product, b.ints([0, -1, w.shape[1]]))
            result = b.op("Transpose", wide, perm=to_channels_first(rank))
        else:
            first = b.op("Transpose", product, perm=to_channels_first(rank))
            result = b.op("DepthToSpace", first, blocksize=block, mode="DCR")
        if late:
            result = apply_postops(b, node, result, node.inputs[2:], channel_axis=1)
        return Replacement({node.output: result}, (node,))


def overlaps(node: Node, kernel: tuple[int, ...]) -> str:
    """Why the windows of a transposed convolution may overlap; empty if they do not."""
    if (
        node.str_attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        or "output_shape" in node.attrs
    ):
        return "the padding depends on the input size"
    if len(kernel) not in (1, 2) or len(set(kernel)) != 1:
        return "the kernel is not square"
    if node.ints_attr("strides") != kernel:
        return "the strides are not the kernel's size"
    if any(node.ints_attr("pads")) or any(node.ints_attr("output_padding")):
        return "the result is padded"
    if any(d != 1 for d in node.ints_attr("dilations")):
        return "it is dilated"
    return "it has groups" if node.int_attr("group", 1) != 1 else ""
