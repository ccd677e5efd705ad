"""Products of 8 bits with scales that are computed in every run, and DynamicQuantizeLinear."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.dynamic import (
    DynamicSpec,
    column_sums,
    dynamic_matmul,
    dynamic_quantize,
    parts_of,
)
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.gemm import packed_size
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.pad_codes import PadSpec, pad_codes
from burnish.backends.cpu.quantized import pack_codes
from burnish.backends.cpu.rules.common import lower_operands, refuse_operands
from burnish.backends.images import any_size, channels
from burnish.ir import Dim, Node, TensorType
from burnish.ir.definitions.quantized import CORE
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext


def is_dynamic(node: Node) -> bool:
    """Whether scale or zero point of a QMatMul's input are computed in every run."""
    return not (node.required(2).is_const and node.required(3).is_const)


def refuse_dynamic(node: Node) -> Refused | None:
    """Refuse dynamic products that :func:`emit_dynamic` does not take."""
    if not (node.required(1).is_const and node.required(4).is_const):
        return Refused("the weights are not constant")
    if node.str_attr("y_dtype") != "float32":
        return Refused(f"it stores {node.str_attr('y_dtype')} by a scale of each run")
    if "quantized" in [p.operand for p in postops_of(node)]:
        return Refused("a post-op reads 8 bits")
    return refuse_operands(node, CORE)


def emit_dynamic(ctx: NodeContext, node: Node) -> None:
    """Lower a QMatMul whose scale or zero point is computed."""
    isa, w = ctx.isa, node.required(1)
    k, n = (channels(d) for d in w.shape)
    rows = product(node.required(0).shape[:-1])
    wide = -(-k // PACK) * PACK
    x = _data(ctx, node, rows, k, wide)
    postops = postops_of(node)

    def spec(rows: Any) -> DynamicSpec:
        return DynamicSpec(rows, wide, n, x.dtype, postops)

    fixed = spec(any_size((rows,))[0])
    columns = fixed.product.words(isa).columns(isa)

    def build(shapes: CallShapes) -> Any:
        return dynamic_matmul(isa, spec(shapes.inputs[0][0]))

    inputs = [x, *_constants(ctx, node, fixed, isa)]
    inputs += [ctx.tensor(node.required(i)) for i in (2, 3)]
    for operand, post in zip(
        lower_operands(ctx, node, CORE), [p for p in postops if p.operand], strict=True
    ):
        full = post.operand == "full"
        inputs.append(ctx.reshape(operand, (rows, n)) if full else operand)
    tile = columns[0].tile
    (result,) = ctx.call(
        "dynamic_matmul",
        (n, columns, postops_key(postops)),
        build,
        inputs,
        [TensorType("float32", (rows, n))],
        flops=product([rows, n, 2 * k]),
        detail=f"{isa.dot8}, tile {tile.rows}x{tile.vectors}",
    )
    ctx.set(ctx.reshape(result, node.output.shape))


def _data(ctx: NodeContext, node: Node, rows: Dim, k: int, wide: int) -> Lowered:
    """The left operand as a matrix of whole words."""
    x = ctx.reshape(ctx.tensor(node.required(0)), (1, 1, rows, k))
    if wide != k:

        def build(shapes: CallShapes) -> Any:
            spec = PadSpec(1, 1, shapes.inputs[0][2], k, (0, 0, 0, 0), wide, 0, x.dtype)
            return pad_codes(ctx.isa, spec)

        # What they are filled with is multiplied by 0.
        types = [TensorType(x.dtype, (1, 1, rows, wide))]
        (x,) = ctx.call("pad_codes", ((0, 0, 0, 0), wide, 0), build, [x], types)
    return ctx.reshape(x, (rows, wide))


def _constants(ctx: NodeContext, node: Node, spec: DynamicSpec, isa: Isa) -> list[Lowered]:
    """Packed weights, their scales and sums."""
    w, scale = node.required(1), node.required(4)
    inner = spec.product
    columns = inner.words(isa).columns(isa)
    size = PACK * packed_size(spec.k // PACK, spec.n, isa)

    def pack(array: Any) -> Any:
        return pack_codes(array.T.reshape(spec.n, -1, 1, 1), inner, isa)

    def widen(array: Any) -> Any:
        return pack_channel(array.reshape(-1).repeat(1 if array.size == spec.n else spec.n), isa)

    return [
        ctx.weight(w, ("qconv", columns), pack, (size,)),
        ctx.weight(scale, ("channel", spec.n, isa.lanes), widen),
        ctx.weight(w, ("column sums", isa.lanes), lambda a: column_sums(a, isa)),
    ]


def _accepts_quantize(node: Node) -> Refused | None:
    return None if node.required(0).dtype == "float32" else Refused("it is not float32")


def _emit_quantize(ctx: NodeContext, node: Node) -> None:
    x = ctx.tensor(node.required(0))
    count = product(x.dims)
    parts = parts_of(count if isinstance(count, int) else None)

    def build(shapes: CallShapes) -> Any:
        return dynamic_quantize(ctx.isa, shapes.inputs[0])

    outputs = [
        TensorType("uint8", x.dims),
        TensorType("float32", ()),
        TensorType("uint8", ()),
        TensorType("float32", (parts, 2)),
    ]
    *results, _ = ctx.call("dynamic_quantize", len(x.dims), build, [x], outputs)
    ctx.set(*(r for r, v in zip(results, node.outputs, strict=True) if v is not None))


DYNAMIC_QUANTIZE = KernelRule("DynamicQuantizeLinear", _accepts_quantize, _emit_quantize)
