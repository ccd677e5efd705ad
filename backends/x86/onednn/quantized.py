"""Quantized products as oneDNN's operations.

Sums are int32 and scaled by the first post-op; the last one makes the codes of the result, which
are rounded and saturated when they are stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from burnish.backends.base import Refused
from burnish.backends.composites import postops_of
from burnish.backends.cpu.costs import nominal
from burnish.backends.cpu.rules.quantized import qconv_tactics as generated_qconv
from burnish.backends.cpu.rules.quantized import qmatmul_tactics as generated_qmatmul
from burnish.backends.images import channels, image_dims, window
from burnish.backends.x86.onednn.offers import call_operation, note, offered
from burnish.backends.x86.onednn.operations import DTYPES, Operation
from burnish.backends.x86.onednn.postops import Step, refuse_postops, step
from burnish.ir import Node, PostOp, TensorType, Value
from burnish.ir.definitions.quantized import CORE, is_sum
from burnish.ir.dims import product
from burnish.ir.postops import operands
from burnish.lowering.context import Lowered, NodeContext
from burnish.lowering.tactics import Tactic

#: The instruction set's dot products with which oneDNN does not saturate sums of two products.
_EXACT = "vnni"
_SCALE = Step("mul", operand="channel")


def qmatmul_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """``burnish::QMatMul``: [..., K] times constant weights."""
    refused = _refuse(ctx, node)
    if refused is not None:
        note(ctx, node, refused)
        return
    depth, columns = (channels(d) for d in node.required(1).shape)
    lead = node.required(0).shape[:-1]
    # Blocks of columns, whose results lie apart, have only a reference implementation.
    geometry: dict[str, int | tuple[int, ...]] = {
        "depth": depth,
        "columns": columns,
        "column_block": columns,
    }
    operation = _operation(node, "matmul", geometry)

    def emit() -> None:
        tensors = [ctx.tensor(node.required(0)), *_arguments(ctx, node, lambda t: t)]
        flops = product([*node.output.shape, 2 * depth])
        ctx.set(call_operation(ctx, operation, tensors, node.output.t, flops))

    sizes = [prod(map(nominal, lead))]
    yield from offered(ctx, node, operation, sizes, generated_qmatmul(ctx, node), emit)


def qconv_tactics(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """``burnish::QConv``, channels last."""
    x, w = node.required(0), node.required(1)
    oc, ic, *sizes = (channels(d) for d in w.shape)
    view = window(node, tuple(sizes))
    extents = [(k - 1) * d + 1 for k, d in zip(view.kernel, view.dilations, strict=True)]
    refused = _refuse(ctx, node)
    if any(not 0 <= p < e for p, e in zip(view.pads, extents * 2, strict=True)):
        refused = Refused("the padding is wider than the window")
    if refused is not None:
        note(ctx, node, refused)
        return
    dims, output_dims = image_dims(x.shape), image_dims(node.output.shape)
    geometry: dict[str, int | tuple[int, ...]] = {
        "groups": node.int_attr("group", 1),
        "channels_in": ic,
        "channels_out": oc,
        "kernel": view.kernel,
        "strides": view.strides,
        "dilations": view.dilations,
        "pads": view.pads,
    }
    operation = _operation(node, "conv", geometry)

    def emit() -> None:
        image = ctx.reshape(ctx.tensor(x), dims)
        tensors = [image, *_arguments(ctx, node, lambda t: ctx.reshape(t, output_dims))]
        output = TensorType(node.output.dtype, output_dims)
        flops = product([*output_dims, 2 * ic, *view.kernel])
        result = call_operation(ctx, operation, tensors, output, flops)
        ctx.set(ctx.reshape(result, node.output.shape))

    n, *size = map(nominal, dims[:-1])
    yield from offered(
        ctx, node, operation, (n, *map(max, size, extents)), generated_qconv(ctx, node), emit
    )


def _refuse(ctx: NodeContext, node: Node) -> Refused | None:
    if ctx.isa.dot8 != _EXACT:
        return Refused(f"its sums of bytes saturate on {ctx.isa.name}")
    if is_sum(node):
        return Refused("sums are not scaled")
    if not all(node.required(i).is_const for i in (2, 3, 4)):
        return Refused("the scale of the data is computed")
    posts = postops_of(node)
    if any(p.operand == "quantized" and p.op not in ("Add", "Sub") for p in posts):
        return Refused("only sums take operands in 8 bits")
    return refuse_postops(posts)


def _operation(node: Node, kind: str, geometry: dict[str, int | tuple[int, ...]]) -> Operation:
    x, y = node.required(0), node.output
    result = DTYPES[y.dtype]
    steps = (_SCALE, *_steps(node))
    if y.dtype != "float32":
        scale, zero = node.float_attr("y_scale"), node.int_attr("y_zero_point")
        steps = (*steps, Step("linear", 1 / scale, float(zero)))
    zero_point = int(node.required(3).array.reshape(()))
    return Operation(kind, DTYPES[x.dtype], "s8", result, False, steps, geometry, zero_point)


def _steps(node: Node) -> Iterator[Step]:
    """The post-ops; an operand in 8 bits is added to what is divided by its scale meanwhile."""
    posts = postops_of(node)
    values = iter(node.inputs[CORE:])
    for post in posts:
        value = next(values) if post.operand else None
        if value is None or post.operand != "quantized":
            yield step(post, "f32")
            continue
        scale, zero = post.params
        yield Step("linear", 1 / scale, zero if post.op == "Sub" else -zero)
        yield step(PostOp(post.op, "full"), DTYPES[value.dtype])
        yield Step("linear", scale)


def _arguments(
    ctx: NodeContext, node: Node, shaped: Callable[[Lowered], Lowered]
) -> Sequence[Lowered]:
    """Weights, the scale of the sums and the operands of post-ops; full ones are ``shaped``."""
    x_scale, w_scale = node.required(2), node.required(4)
    count = channels(node.output.shape[-1])
    factor = np.float32(x_scale.array.reshape(()))

    def scales(array: np.ndarray) -> np.ndarray:
        return np.array(np.broadcast_to(array.reshape(-1) * factor, (count,)), np.float32)

    found = [
        ctx.tensor(node.required(1)),
        ctx.weight(w_scale, ("onednn", float(factor), count), scales),
    ]
    for kind, value in zip(operands(postops_of(node)), node.inputs[CORE:], strict=True):
        assert value is not None
        found.append(_operand(ctx, value, kind, shaped))
    return found


def _operand(
    ctx: NodeContext, value: Value, kind: str, shaped: Callable[[Lowered], Lowered]
) -> Lowered:
    return ctx.tensor(value) if kind in ("channel", "scalar") else shaped(ctx.tensor(value))
