"""Softmax and normalizations over rows."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import NormForm, norm_call, norm_rules, refuse_norm
from burnish.backends.cuda.rows import NormSpec, SoftmaxSpec, norm, softmax
from burnish.backends.cuda.rules.common import lower_operands, refuse_floats, refuse_operands
from burnish.backends.cuda.tir import product
from burnish.ir import Node
from burnish.lowering.context import CallShapes, NodeContext


def _accepts_softmax(node: Node) -> Refused | None:
    floats = refuse_floats([node.required(0), node.output])
    return floats or (None if node.output.shape else Refused("it has no axis"))


def _emit_softmax(ctx: NodeContext, node: Node) -> None:
    x = ctx.tensor(node.required(0))
    axis = node.int_attr("axis", -1) % len(x.dims)
    log = node.op == "LogSoftmax"

    def build(shapes: CallShapes) -> Any:
        dims = shapes.inputs[0]
        spec = SoftmaxSpec(product(dims[:axis]), dims[axis], product(dims[axis + 1 :]), log)
        return softmax(spec, dims, x.dtype, node.output.dtype)

    ctx.set(*ctx.call(node.op.lower(), (axis, len(x.dims)), build, [x], [node.output.t]))


def _accepts_norm(node: Node, form: NormForm) -> Refused | None:
    operands = refuse_operands(node, form.core) if form.skip else None
    floats = refuse_floats([*node.inputs[: form.core], *node.outputs])
    return refuse_norm(node, form) or floats or operands


def _emit_norm(ctx: NodeContext, node: Node, form: NormForm) -> None:
    call = norm_call(ctx, node, form)
    operands = lower_operands(ctx, node, form.core) if form.skip else []
    outputs = [v.t for v in node.outputs if v is not None]

    def build(shapes: CallShapes) -> Any:
        return norm(
            NormSpec(
                rows=shapes.inputs[0][:-1],
                width=call.width,
                kind=form.kind,
                epsilon=call.epsilon,
                scale=call.scale,
                bias=call.bias,
                skip=form.skip,
                keep_sum=len(outputs) > 1,
                dtypes=(*(t.dtype for t in call.tensors), *(t.dtype for t in outputs)),
                postops=call.postops,
                operands=tuple(t.dtype for t in operands),
            )
        )

    ctx.set(
        *ctx.call(
            *call.name_and_key(form, len(outputs)), build, [*call.tensors, *operands], outputs
        )
    )


ROW_RULES = (
    KernelRule("Softmax", _accepts_softmax, _emit_softmax),
    KernelRule("LogSoftmax", _accepts_softmax, _emit_softmax),
    *norm_rules(_accepts_norm, _emit_norm),
)
