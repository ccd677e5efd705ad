"""Products of 8 bits on the integer templates."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.costs import nominal
from burnish.backends.cpu.depthwise import depthwise_tile, pack_depthwise
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.epilogue import pack_channel, pack_scalar
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.pad_codes import PadSpec, pad_codes
from burnish.backends.cpu.place import placeable
from burnish.backends.cpu.quantized import (
    QuantizedSpec,
    is_bounded,
    pack_affine,
    pack_codes,
    pack_sums,
    packed_codes_size,
    quantized_conv,
)
from burnish.backends.cpu.quantized_depthwise import (
    groups_of,
    pack_affine_taps,
    pack_channel_taps,
    pack_taps,
    packed_taps_size,
    pixels_of,
    quantized_depthwise,
    takes,
)
from burnish.backends.cpu.quantized_groups import merge_filters, merged_groups
from burnish.backends.cpu.quantized_rows import (
    beyond,
    pack_rows,
    packed_rows_size,
    quantized_rows,
    rows_tile,
    takes_rows,
)
from burnish.backends.cpu.rules.common import refuse_operands
from burnish.backends.cpu.rules.conv_node import conv_spec
from burnish.backends.cpu.rules.dynamic import (
    DYNAMIC_QUANTIZE,
    emit_dynamic,
    is_dynamic,
    refuse_dynamic,
)
from burnish.backends.cpu.rules.joining import call_into, join_for, place_in
from burnish.backends.images import any_size, channels, refuse_layout
from burnish.ir import Dim, Node, PostOp, TensorType, Value
from burnish.ir.definitions.quantized import CORE, is_sum
from burnish.ir.dims import add, product
from burnish.ir.postops import operands
from burnish.lowering.context import CallShapes, Lowered, NodeContext
from burnish.lowering.tactics import Tactic, by_tactics


def _refuse_core(node: Node) -> Refused | None:
    """Refuse what neither rule takes."""
    for index, what in ((1, "weights"), (2, "scale"), (3, "zero point"), (4, "weights' scale")):
        if not node.required(index).is_const:
            return Refused(f"the {what} is not constant")
    if is_sum(node) and postops_of(node):
        return Refused("sums in int32 have no post-ops")
    return refuse_operands(node, CORE)


def _accepts_conv(node: Node) -> Refused | None:
    if not isinstance(node.required(0).shape[-1], int):
        return Refused("the number of channels is not known")
    return refuse_layout(node) or _refuse_core(node)


def _accepts_matmul(node: Node) -> Refused | None:
    return refuse_dynamic(node) if is_dynamic(node) else _refuse_core(node)


@dataclass(frozen=True)
class _Call:
    """A quantized product as a convolution.

    Attributes:
        dims: Shape of the input, NHWC.
        output_dims: Shape of the output, NHWC.
        weights: The weights value.
        spec: What is computed, the padding of ``dims`` included.
        merged: How many groups of the weights are one of the spec's.
    """

    dims: tuple[Dim, ...]
    output_dims: tuple[Dim, ...]
    weights: Value
    spec: QuantizedSpec
    merged: int = 1


@dataclass(frozen=True)
class _Template:
    """A kernel, with the layout of its packed constants.

    Attributes:
        family: Its name.
        build: The kernel of an instruction set and a spec.
        pack: Weights [OC, IC/groups, KH, KW], the spec and the instruction set to what it reads.
        affine: The same for scales and offsets (:func:`quantized.pack_affine`).
        layout: What the packed form depends on besides spec and instruction set.
        size: Elements of the packed weights; None if they are not int8.
        detail: What was chosen, for the report.
        channel: Packs ``channel`` operands, if they do not lie as the channels do.
    """

    family: str
    build: Callable[[Isa, QuantizedSpec], Any]
    pack: Callable[[np.ndarray, QuantizedSpec, Isa], np.ndarray]
    affine: Callable[..., tuple[np.ndarray, np.ndarray]]
    layout: Hashable
    size: int | None
    detail: str
    channel: Callable[[np.ndarray], np.ndarray] | None = None


def _emit_conv(ctx: NodeContext, node: Node) -> None:
    dims, output_dims, conv = conv_spec(node)
    merged = 1
    if not conv.groups == conv.ic == conv.oc:
        merged = merged_groups(conv, ctx.isa)
        conv = replace(conv, groups=conv.groups // merged)
    _emit(ctx, node, _Call(dims, output_dims, node.required(1), _spec(node, conv), merged))


def _emit_matmul(ctx: NodeContext, node: Node) -> None:
    if is_dynamic(node):
        emit_dynamic(ctx, node)
        return
    x, w = node.required(0), node.required(1)
    k, n = (channels(d) for d in w.shape)
    rows = product(x.shape[:-1])
    dims = (1, 1, rows, k)
    conv = ConvSpec(1, 1, any_size(dims)[2], k, n, (1, 1))
    _emit(ctx, node, _Call(dims, (1, 1, rows, n), w, _spec(node, conv)))


def _spec(node: Node, conv: ConvSpec) -> QuantizedSpec:
    """What a node computes; its first post-op may be a bias, which is no post-op of the kernel."""
    posts = _after_bias(node)
    kinds = operands(postops_of(node))
    coded = (v for k, v in zip(kinds, node.inputs[CORE:], strict=True) if k == "quantized")
    x, y_dtype = node.required(0), node.str_attr("y_dtype")
    stored = y_dtype in LIMITS
    return QuantizedSpec(
        replace(conv, postops=posts),
        x.dtype,
        int(node.required(3).array.reshape(())),
        y_dtype,
        node.float_attr("y_scale") if stored else 1.0,
        node.int_attr("y_zero_point") if stored else 0,
        tuple(v.dtype for v in coded if v is not None),
    )


def _has_bias(node: Node) -> bool:
    posts = postops_of(node)
    return bool(posts) and posts[0] == PostOp("Add", "channel")


def _after_bias(node: Node) -> tuple[PostOp, ...]:
    return postops_of(node)[1:] if _has_bias(node) else postops_of(node)


def _emit(ctx: NodeContext, node: Node, call: _Call) -> None:
    isa = ctx.isa
    x, call = _padded(ctx, node, call)
    bounded = not is_sum(node) and _is_bounded(node, call)
    spec = replace(call.spec, bounded=bounded)
    join = join_for(ctx, node) if placeable(spec.conv.postops) and not spec.staged else None
    conv = replace(spec.conv, place=place_in(join, node))
    spec = replace(spec, conv=conv)
    call = replace(call, spec=spec)
    template = _template(spec, isa)
    weights = ctx.weight(
        call.weights,
        (template.family, template.layout),
        lambda array: template.pack(_filters(call, array), spec, isa),
        None if template.size is None else (template.size,),
    )
    affine = [_sums(ctx, call)] if is_sum(node) else [*_affine(ctx, node, call, template)]

    def build(shapes: CallShapes) -> Any:
        n, h, width, _ = shapes.inputs[0]
        return template.build(isa, replace(spec, conv=replace(conv, n=n, h=h, w=width)))

    view = (conv.kernel, conv.strides, conv.pads, conv.dilations, conv.groups, conv.oc)
    stored = (spec.y_dtype, spec.y_scale, spec.y_zero, spec.bounded)
    codes = (spec.x_dtype, spec.x_zero, *stored, spec.codes)
    outputs = [TensorType(spec.y_dtype, call.output_dims)]
    if spec.staged:
        outputs.append(TensorType("float32", call.output_dims))
    call_into(
        ctx,
        node,
        join,
        template.family,
        (view, template.layout, codes, postops_key(conv.postops), conv.place),
        build,
        [x, weights, *affine, *_operands(ctx, node, call, template)],
        outputs,
        flops=product([*call.output_dims, 2 * prod(_taps(node))]),
        detail=template.detail,
    )


def _template(spec: QuantizedSpec, isa: Isa) -> _Template:
    """The kernel for a product."""
    conv = spec.conv
    if takes(spec, isa):
        vectors = groups_of(spec, isa)[0].vectors
        detail = f"{isa.dot8}, tile {pixels_of(conv, isa)}x{vectors}"
        return _Template(
            "qdepthwise",
            quantized_depthwise,
            pack_taps,
            pack_affine_taps,
            (isa.lanes, spec.stores_codes),
            packed_taps_size(spec, isa),
            detail,
            lambda array: pack_channel_taps(array, spec, isa),
        )
    if spec.depthwise:
        tile = depthwise_tile(conv, isa)
        detail = f"float32, tile {tile.rows}x{tile.vectors}"
        return _Template(
            "qdepthwise_float32", quantized_conv, _pack_float, pack_affine, isa.lanes, None, detail
        )
    if takes_rows(spec):
        detail = f"{isa.dot8}, words of rows, tile {rows_tile(spec, isa)}"
        size = packed_rows_size(spec, isa)
        layout = (conv.kernel, rows_tile(spec, isa))
        return _Template("qconv_rows", quantized_rows, pack_rows, pack_affine, layout, size, detail)
    columns = spec.words(isa).columns(isa)
    tile = columns[0].tile
    detail = f"{isa.dot8}, tile {tile.rows}x{tile.vectors}"
    size = packed_codes_size(spec, isa)
    return _Template("qconv", quantized_conv, pack_codes, pack_affine, columns, size, detail)


def _pack_float(filters: np.ndarray, spec: QuantizedSpec, isa: Isa) -> np.ndarray:
    return pack_depthwise(filters.astype(np.float32), spec.conv, isa)


def _taps(node: Node) -> tuple[int, ...]:
    """Sizes of what is summed for one result."""
    w = tuple(map(channels, node.required(1).shape))
    return w[:1] if node.op == "QMatMul" else w[1:]


def _padded(ctx: NodeContext, node: Node, call: _Call) -> tuple[Lowered, _Call]:
    """The input, with its padding written out where the kernel needs it."""
    x = ctx.reshape(ctx.tensor(node.required(0)), call.dims)
    spec, conv = call.spec, call.spec.conv
    if spec.depthwise:
        return x, call
    rows = takes_rows(spec)
    width = conv.ic // conv.groups
    short = width % PACK != 0
    if not short and not (any(conv.pads) and spec.read_zero):
        return x, call
    n, h, w, c = call.dims
    wide = conv.ic if rows else -(-width // PACK) * PACK * conv.groups
    written = bool(spec.read_zero) or rows
    pads = conv.pads if written else (0, 0, 0, 0)
    left_over = (0, 0, 0, 0) if written else conv.pads
    if rows:
        pads = (*pads[:3], pads[3] + beyond(conv))
    top, left, bottom, right = pads
    dims = (n, add(h, top + bottom), add(w, left + right), wide)

    def build(shapes: CallShapes) -> Any:
        n, h, width, _ = shapes.inputs[0]
        kind, groups = spec.x_dtype, conv.groups
        padded = PadSpec(n, h, width, channels(c), pads, wide, spec.x_zero, kind, groups)
        return pad_codes(ctx.isa, padded)

    key = (pads, wide, spec.x_zero, conv.groups)
    (copy,) = ctx.call("pad_codes", key, build, [x], [TensorType(spec.x_dtype, dims)])
    sizes = any_size(dims)[:3]
    inner = replace(conv, n=sizes[0], h=sizes[1], w=sizes[2], ic=wide, pads=left_over)
    return copy, replace(call, spec=replace(spec, conv=inner))


def _filters(call: _Call, array: np.ndarray) -> np.ndarray:
    """Weights as [OC, IC/groups, KH, KW]."""
    conv, count = call.spec.conv, call.merged
    if array.ndim == 2:
        array = array.T
    filters = array.reshape(conv.oc, -1, *conv.kernel)
    return merge_filters(filters, conv.groups * count, count)


def _factors(node: Node) -> tuple[np.ndarray, np.ndarray | None]:
    """What sums are multiplied by, and the bias."""
    bias = node.required(CORE).array.astype(np.float32) if _has_bias(node) else None
    return node.required(2).array.astype(np.float32) * node.required(4).array, bias


def _is_bounded(node: Node, call: _Call) -> bool:
    return is_bounded(_filters(call, call.weights.array), *_factors(node), call.spec)


def _affine(
    ctx: NodeContext, node: Node, call: _Call, template: _Template
) -> tuple[Lowered, Lowered]:
    """Scale and offset of the sums, which depend on all constants of the node."""
    factors, bias = _factors(node)
    owner = (node.name, template.family, template.layout)

    def packed(which: int, what: str) -> Lowered:
        def pack(array: np.ndarray) -> np.ndarray:
            both = template.affine(_filters(call, array), factors, bias, call.spec, ctx.isa)
            return both[which]

        return ctx.weight(call.weights, (what, owner), pack)

    return packed(0, "scale"), packed(1, "offset")


def _sums(ctx: NodeContext, call: _Call) -> Lowered:
    """What sums in int32 need for the zero point."""
    spec, isa = call.spec, ctx.isa
    key = ("sums", spec.read_zero, spec.depthwise, isa.lanes)
    return ctx.weight(call.weights, key, lambda a: pack_sums(_filters(call, a), spec, isa))


def _operands(ctx: NodeContext, node: Node, call: _Call, template: _Template) -> list[Lowered]:
    """Operands of the post-ops after the bias."""
    kinds = operands(postops_of(node))
    found = []
    start = 1 if _has_bias(node) else 0
    for kind, value in zip(kinds[start:], node.inputs[CORE + start :], strict=True):
        assert value is not None
        if kind == "channel":
            pack = template.channel or (lambda a: pack_channel(a, ctx.isa))
            order = None if template.channel is None else (template.family, template.layout)
            found.append(ctx.weight(value, ("channel", ctx.isa.lanes, order), pack))
        elif kind == "scalar":
            found.append(ctx.weight(value, "scalar", pack_scalar))
        else:
            found.append(ctx.reshape(ctx.tensor(value), call.output_dims))
    return found


def qconv_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The integer template."""
    yield Tactic("integers", _cycles(ctx, node), lambda: _emit_conv(ctx, node))


def qmatmul_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The integer template."""
    yield Tactic("integers", _cycles(ctx, node), lambda: _emit_matmul(ctx, node))


def _cycles(ctx: NodeContext, node: Node) -> float:
    """Estimated cycles of one core, at two dot products in each."""
    products = prod(map(nominal, (*node.output.shape, *_taps(node))))
    # Without the instruction, a dot product of four bytes takes several.
    cycles: float = products / (2 * ctx.isa.lanes * (PACK if ctx.isa.dot8 == "vnni" else 1))
    return cycles


QUANTIZED_RULES = (
    KernelRule("burnish::QConv", _accepts_conv, by_tactics(qconv_tactics)),
    KernelRule("burnish::QMatMul", _accepts_matmul, by_tactics(qmatmul_tactics)),
    DYNAMIC_QUANTIZE,
)
