"""oneDNN's operations as tactics of composites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

from burnish.backends.base import Refused
from burnish.backends.composites import postops_of
from burnish.backends.cpu.costs import nominal
from burnish.backends.cpu.rules.conv import direct_tactics, dots_tactics
from burnish.backends.cpu.rules.conv_node import ConvNode, conv_node
from burnish.backends.cpu.rules.matmul import batched_tactics, gemm_tactics
from burnish.backends.x86.onednn.offers import call_operation, note, offered
from burnish.backends.x86.onednn.operations import DTYPES, Operation
from burnish.backends.x86.onednn.postops import Step, epilogue, refuse_postops
from burnish.backends.x86.onednn.quantized import qconv_tactics, qmatmul_tactics
from burnish.ir import Dim, Node, PostOp, TensorType
from burnish.ir.dims import equal, is_static, product
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import Source, Tactic

#: Products of fewer rows than this are divided by columns.
_FEW_ROWS = 64
_COLUMN_BLOCK = 256
_FLOATS = ("float32", "bfloat16")


@dataclass(frozen=True)
class _Form:
    """What a composite is in oneDNN's terms.

    Attributes:
        kind: Of the operation.
        geometry: Of the operation.
        sizes: What its implementation is asked for.
        generated: Tactics of the same algorithm, by which it is estimated.
        postops: Of the composite.
        bias: Whether the kind takes a bias.
        before: Steps before the post-ops.
    """

    kind: str
    geometry: dict[str, int | tuple[int, ...]]
    sizes: tuple[int, ...]
    generated: Iterable[Tactic]
    postops: tuple[PostOp, ...]
    bias: bool = True
    before: tuple[Step, ...] = ()


def _matmul(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """``burnish::MatMul``: [..., K] times constant weights."""
    x, w = node.required(0), node.required(1)
    depth, columns = (int(d) for d in w.shape if isinstance(d, int))
    lead = x.shape[:-1]
    rows = prod(map(nominal, lead))
    form = _Form(
        "matmul",
        _matmul_geometry(lead, depth, columns),
        (rows,),
        gemm_tactics(ctx, node),
        postops_of(node),
    )
    flops = product([*node.output.shape, 2 * depth])
    yield from _tactic(ctx, node, form, lambda op: _emit_product(ctx, node, op, flops))


def _matmul_geometry(
    lead: Sequence[Dim], depth: int, columns: int
) -> dict[str, int | tuple[int, ...]]:
    """The geometry of a product with constant weights."""
    many = all(map(is_static, lead)) and prod(map(nominal, lead)) >= _FEW_ROWS
    # Columns of one primitive where there are too few rows to divide.
    few = min(columns, max(_COLUMN_BLOCK, -(-columns // 8 // 64) * 64))
    return {"depth": depth, "columns": columns, "column_block": columns if many else few}


def _batch_matmul(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """``burnish::BatchMatMul`` and ``MatMul``: both operands are computed."""
    a, b = node.required(0), node.required(1)
    refused = _refuse_batches(a.shape, b.shape)
    if refused is not None:
        note(ctx, node, refused)
        return
    rows, depth = map(nominal, a.shape[-2:])
    columns, batch = nominal(node.output.shape[-1]), prod(map(nominal, a.shape[:-2]))
    alone = all(equal(d, 1) for d in b.shape[:-2])
    alpha = node.float_attr("alpha", 1.0)
    form = _Form(
        "batch_matmul",
        {"transposed": node.int_attr("transB")},
        (1, batch * rows, depth, columns) if alone else (batch, rows, depth, columns),
        batched_tactics(ctx, node),
        postops_of(node),
        bias=False,
        before=(Step("linear", alpha),) if alpha != 1.0 else (),
    )
    flops = product([*node.output.shape, 2, a.shape[-1]])
    yield from _tactic(ctx, node, form, lambda op: _emit_product(ctx, node, op, flops))


def _refuse_batches(a: tuple[Dim, ...], b: tuple[Dim, ...]) -> Refused | None:
    if not all(map(is_static, (*a[-2:], *b[-2:]))):
        return Refused("the sizes of the matrices are not known")
    same = len(a) == len(b) and all(map(equal, a[:-2], b[:-2]))
    if not same and not all(equal(d, 1) for d in b[:-2]):
        return Refused("the batches broadcast")
    return None


def _emit_product(ctx: NodeContext, node: Node, operation: Operation, flops: Dim) -> None:
    tensors = [ctx.tensor(v) for v in node.inputs if v is not None]
    ctx.set(call_operation(ctx, operation, tensors, node.output.t, flops))


def _conv(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """``burnish::Conv``, channels last."""
    found = conv_node(ctx, node)
    spec = found.spec
    extents = [(k - 1) * d + 1 for k, d in zip(spec.kernel, spec.dilations, strict=True)]
    if any(not 0 <= p < e for p, e in zip(spec.pads, extents * 2, strict=True)):
        note(ctx, node, Refused("the padding is wider than the window"))
        return
    depth = spec.ic // spec.groups
    n, *size = map(nominal, found.dims[:-1])
    form = _Form(
        "conv",
        {
            "groups": spec.groups,
            "channels_in": depth,
            "channels_out": spec.oc,
            "kernel": spec.kernel,
            "strides": spec.strides,
            "dilations": spec.dilations,
            "pads": spec.pads,
        },
        (n, *map(max, size, extents)),
        (*direct_tactics(ctx, node), *dots_tactics(ctx, node)),
        spec.postops,
    )
    yield from _tactic(ctx, node, form, lambda op: _emit_conv(found, op))


def _emit_conv(found: ConvNode, operation: Operation) -> None:
    ctx, node = found.ctx, found.node
    x, *others = (ctx.tensor(v) for v in node.inputs if v is not None)
    output = TensorType(node.output.dtype, found.output_dims)
    tensors = [ctx.reshape(x, found.dims), *others]
    result = call_operation(ctx, operation, tensors, output, found.flops)
    ctx.set(ctx.reshape(result, node.output.shape))


def _tactic(
    ctx: NodeContext, node: Node, form: _Form, emit: Callable[[Operation], None]
) -> Iterator[Tactic]:
    """The tactic of a node in floating point."""
    dtypes = sorted({v.dtype for v in (*node.inputs, node.output) if v is not None})
    refused = refuse_postops(form.postops)
    if len(dtypes) > 1 or dtypes[0] not in _FLOATS:
        refused = Refused(f"no operation on {' and '.join(dtypes)}")
    elif dtypes[0] == "bfloat16" and not ctx.isa.bf16:
        # oneDNN would compute in float32, slowly.
        refused = Refused(f"{ctx.isa.name} has no products of bfloat16")
    if refused is not None:
        note(ctx, node, refused)
        return
    dtype = DTYPES[dtypes[0]]
    bias, steps = epilogue(form.postops, bias=form.bias, dtype=dtype)
    operation = Operation(
        form.kind, dtype, dtype, dtype, bias, (*form.before, *steps), form.geometry
    )
    yield from offered(ctx, node, operation, form.sizes, form.generated, lambda: emit(operation))


#: The sources of tactics by composite.
SOURCES: dict[str, tuple[Source, ...]] = {
    "burnish::MatMul": (_matmul,),
    "burnish::Conv": (_conv,),
    "burnish::BatchMatMul": (_batch_matmul,),
    "MatMul": (_batch_matmul,),
    "burnish::QMatMul": (qmatmul_tactics,),
    "burnish::QConv": (qconv_tactics,),
}
