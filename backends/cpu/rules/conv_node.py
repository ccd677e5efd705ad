"""A burnish::Conv as kernel templates see it: two spatial axes, NHWC, and a :class:`ConvSpec`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from burnish.artifact import held_as
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.epilogue import overwritable
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.pad_codes import PadSpec, pad_codes
from burnish.backends.cpu.place import placeable
from burnish.backends.cpu.rules.common import lower_operands
from burnish.backends.cpu.rules.joining import call_into, join_for, place_in
from burnish.backends.images import Window, any_size, channels, image_dims, window
from burnish.ir import Dim, Node, TensorType, Value
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext


@dataclass(frozen=True)
class Template:
    """A kernel for a convolution, with layout and size of its packed weights.

    Attributes:
        name: Kernel family.
        build: Kernel of an instruction set and a spec: ``x``, ``w``, post-op operands, ``y`` and,
            if ``scratch`` is not 0, a buffer of that many float32.
        pack: Weights [OC, IC/groups, KH, KW], the spec and the instruction set to what it reads.
        layout: What the packed form depends on besides spec and instruction set.
        size: Elements of the packed weights; None if their type is not that of the filters.
        detail: What was chosen, for the report.
        scratch: Elements of memory that the kernel needs besides.
        over: Whether the kernel can write its result over an operand (:attr:`ConvSpec.over`).
        placed: Whether it can write its result into a wider tensor (:attr:`ConvSpec.place`).
        computes: Element type of the arithmetic.
        isa: The row that it is built for; None for the target's.
    """

    name: str
    build: Callable[[Isa, ConvSpec], Any]
    pack: Callable[[np.ndarray, ConvSpec, Isa], np.ndarray]
    layout: Hashable
    size: int | None
    detail: str
    scratch: Dim = 0
    over: bool = False
    placed: bool = False
    computes: str = "float32"
    isa: Isa | None = None


@dataclass(frozen=True)
class ConvNode:
    """A convolution node with constant weights.

    Attributes:
        ctx: Its context.
        node: The node.
        dims: Shape of the input, NHWC.
        output_dims: Shape of the output, NHWC.
        spec: What a kernel computes; sizes that are not static are some variables.
    """

    ctx: NodeContext
    node: Node
    dims: tuple[Dim, ...]
    output_dims: tuple[Dim, ...]
    spec: ConvSpec

    @property
    def weights(self) -> Value:
        """The filters [OC, IC/groups, ...]."""
        return self.node.required(1)

    @property
    def flops(self) -> Dim:
        """Operations of the direct algorithm, multiply-adds as two."""
        return product([*self.output_dims, 2 * self.inputs * prod(self.spec.kernel)])

    @property
    def inputs(self) -> int:
        """Input channels of a group; :attr:`spec` may have more, which are 0."""
        return channels(self.weights.shape[1])

    def widened(self, ic: int) -> ConvNode:
        """The same on a copy of the input with more channels."""
        return replace(self, dims=(*self.dims[:-1], ic), spec=replace(self.spec, ic=ic))

    def call(self, template: Template) -> None:
        """Emit the call of a template's kernel and bind the node's output."""
        ctx, node = self.ctx, self.node
        isa = template.isa or ctx.isa
        ctx.computes = template.computes
        join = join_for(ctx, node) if template.placed and self.spec.place is not None else None
        spec = replace(self.spec, place=place_in(join, node))
        x = self._input()
        operands = [
            ctx.reshape(t, self.output_dims) if len(t.dims) > 1 else t
            for t in lower_operands(ctx, node, 2, isa)
        ]

        over = self._overwritten() if template.over and join is None else None
        spec = replace(spec, over=over is not None)

        def build(shapes: CallShapes) -> Any:
            n, h, width, _ = shapes.inputs[0]
            return template.build(isa, replace(spec, n=n, h=h, w=width))

        def pack(array: np.ndarray) -> np.ndarray:
            filters = array.reshape(spec.oc, self.inputs, *spec.kernel)
            more = spec.ic // spec.groups - self.inputs
            if more:
                filters = np.pad(filters, ((0, 0), (0, more), (0, 0), (0, 0)))
            return template.pack(filters, spec, isa)

        outputs = [TensorType(x.dtype, self.output_dims)]
        if template.scratch != 0:
            outputs.append(TensorType("float32", (template.scratch,)))
        view = (spec.kernel, spec.strides, spec.pads, spec.dilations, spec.groups, spec.oc)
        key = (template.name, template.layout)
        size = None if template.size is None else (template.size,)
        call_into(
            ctx,
            node,
            join,
            template.name,
            (view, template.layout, postops_key(spec.postops), spec.place),
            build,
            [x, ctx.weight(self.weights, key, pack, size), *operands],
            outputs,
            flops=self.flops,
            detail=template.detail,
            over=over,
        )

    def _input(self) -> Lowered:
        """The input, NHWC, with as many channels as the kernel reads."""
        ctx, ic = self.ctx, self.inputs * self.spec.groups
        *lead, wide = self.dims
        x = ctx.reshape(ctx.tensor(self.node.required(0)), (*lead, ic))
        if wide == ic:
            return x

        def build(shapes: CallShapes) -> Any:
            n, h, w, _ = shapes.inputs[0]
            kind = held_as(x.dtype)
            return pad_codes(ctx.isa, PadSpec(n, h, w, ic, (0, 0, 0, 0), self.spec.ic, 0, kind))

        key = ((0, 0, 0, 0), self.spec.ic, 0)
        (copy,) = ctx.call("pad_channels", key, build, [x], [TensorType(x.dtype, self.dims)])
        return copy

    def _overwritten(self) -> int | None:
        """Which argument of the kernel the result may be written over; None if none."""
        postops = self.spec.postops
        place = overwritable(postops)
        if place is None:
            return None
        argument = 2 + sum(bool(post.operand) for post in postops[:place])
        operand = self.node.required(argument)
        fits = not self.node.output.is_output and self.ctx.overwrites(operand)
        return argument if fits else None


def conv_node(ctx: NodeContext, node: Node) -> ConvNode:
    """A node that the rule of convolutions accepted."""
    dims, output_dims, spec = conv_spec(node)
    spec = replace(spec, postops=postops_of(node), dtype=node.required(0).dtype)
    if placeable(spec.postops):
        spec = replace(spec, place=place_in(join_for(ctx, node), node))
    return ConvNode(ctx, node, dims, output_dims, spec)


def conv_spec(node: Node) -> tuple[tuple[Dim, ...], tuple[Dim, ...], ConvSpec]:
    """Shapes of input and output of a convolution, NHWC, and what it computes without post-ops."""
    x, w = node.required(0), node.required(1)
    oc, ic, *kernel = (channels(d) for d in w.shape)
    groups = node.int_attr("group", 1)
    dims, view = lay_flat(image_dims(x.shape), window(node, tuple(kernel)))
    output_dims = image_dims(node.output.shape)
    if dims != image_dims(x.shape):
        output_dims = (output_dims[0], 1, output_dims[1], output_dims[3])
    n, h, width, _ = any_size(dims)
    geometry = (view.kernel, view.strides, view.pads, view.dilations, groups)
    return dims, output_dims, ConvSpec(n, h, width, ic * groups, oc, *geometry)


def lay_flat(dims: tuple[Dim, ...], view: Window) -> tuple[tuple[Dim, ...], Window]:
    """A picture of one column as one of one row: kernels tile along rows.

    Returns:
        The image's shape and the window, exchanged or as they were.
    """
    n, h, w, c = dims
    if w == 1 and view.kernel[1] == 1 and view.pads[1] == view.pads[3] == 0:
        return (n, 1, h, c), view.transposed()
    return dims, view
