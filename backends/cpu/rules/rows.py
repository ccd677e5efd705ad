"""Softmax and normalization over rows."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import NormForm, norm_call, norm_rules, refuse_norm
from burnish.backends.cpu.norm import GroupNormSpec, NormSpec, group_norm, norm
from burnish.backends.cpu.requantize import Rounding
from burnish.backends.cpu.rules.common import lower_operands, refuse_dtype, refuse_operands
from burnish.backends.cpu.softmax import SoftmaxSpec, softmax
from burnish.ir import Node
from burnish.lowering.context import CallShapes, NodeContext


def _emit_softmax(ctx: NodeContext, node: Node) -> None:
    x = ctx.tensor(node.required(0))
    axis = node.int_attr("axis", -1) % len(x.dims)
    log = node.op == "LogSoftmax"

    def build(shapes: CallShapes) -> Any:
        dims = shapes.inputs[0]
        return softmax(
            ctx.isa, SoftmaxSpec(dims[:axis], dims[axis], dims[axis + 1 :], log, x.dtype)
        )

    ctx.set(*ctx.call(node.op.lower(), (axis, len(x.dims)), build, [x], [node.output.t]))


def _accepts_softmax(node: Node) -> Refused | None:
    return refuse_dtype(node) or (None if node.output.shape else Refused("it has no axis"))


def _accepts_norm(node: Node, form: NormForm) -> Refused | None:
    postops = refuse_operands(node, form.core) if form.skip else None
    return refuse_norm(node, form) or refuse_dtype(node) or postops


def _emit_norm(ctx: NodeContext, node: Node, form: NormForm) -> None:
    call = norm_call(ctx, node, form)
    operands = lower_operands(ctx, node, form.core) if form.skip else []
    outputs = [v.t for v in node.outputs if v is not None]

    def build(shapes: CallShapes) -> Any:
        spec = NormSpec(
            shapes.inputs[0][:-1],
            call.width,
            form.kind,
            call.epsilon,
            call.scale,
            call.bias,
            form.skip,
            len(outputs) > 1,
            call.postops,
            call.tensors[0].dtype,
        )
        return norm(ctx.isa, spec)

    ctx.set(
        *ctx.call(
            *call.name_and_key(form, len(outputs)), build, [*call.tensors, *operands], outputs
        )
    )


_SUM_NORM = NormForm("layer", True)


def _accepts_quantized_norm(node: Node) -> Refused | None:
    read = node.inputs[: _SUM_NORM.core]
    if any(v is not None and v.dtype != "float32" for v in read):
        return Refused("what is normalized is not float32")
    return refuse_norm(node, _SUM_NORM) or refuse_operands(node, _SUM_NORM.core)


def _emit_quantized_norm(ctx: NodeContext, node: Node) -> None:
    call = norm_call(ctx, node, _SUM_NORM)
    operands = lower_operands(ctx, node, _SUM_NORM.core)
    outputs = [v.t for v in node.outputs if v is not None]
    result, total = (len(node.outputs) > i and node.outputs[i] is not None for i in (1, 2))
    rounding = Rounding.whole(node.str_attr("y_dtype"), node.int_attr("y_zero_point"))
    scale = node.float_attr("y_scale")

    def build(shapes: CallShapes) -> Any:
        spec = NormSpec(
            shapes.inputs[0][:-1],
            call.width,
            _SUM_NORM.kind,
            call.epsilon,
            call.scale,
            call.bias,
            _SUM_NORM.skip,
            total,
            call.postops,
            codes=rounding,
            scale_of_codes=scale,
            result=result,
        )
        return norm(ctx.isa, spec)

    ctx.computes = "float32"
    name, key = call.name_and_key(_SUM_NORM, len(outputs))
    key = (*key, rounding, scale, result)
    ctx.set(*ctx.call(f"q{name}", key, build, [*call.tensors, *operands], outputs))


def _accepts_group_norm(node: Node) -> Refused | None:
    x = node.required(0)
    if len(x.shape) < 2 or not isinstance(x.shape[1], int):
        return Refused("the number of channels is not known")
    return refuse_dtype(node)


def _emit_group_norm(ctx: NodeContext, node: Node) -> None:
    tensors = [ctx.tensor(node.required(i)) for i in range(3)]
    channels = tensors[0].dims[1]
    assert isinstance(channels, int)
    groups = node.int_attr("num_groups", channels)
    epsilon = node.float_attr("epsilon", 1e-5)

    def build(shapes: CallShapes) -> Any:
        batch, _, *spatial = shapes.inputs[0]
        return group_norm(
            ctx.isa,
            GroupNormSpec(batch, channels, tuple(spatial), groups, epsilon, tensors[0].dtype),
        )

    ctx.set(*ctx.call("group_norm", (groups, epsilon), build, tensors, [node.output.t]))


ROW_RULES = (
    KernelRule("GroupNormalization", _accepts_group_norm, _emit_group_norm),
    KernelRule("InstanceNormalization", _accepts_group_norm, _emit_group_norm),
    KernelRule("Softmax", _accepts_softmax, _emit_softmax),
    KernelRule("LogSoftmax", _accepts_softmax, _emit_softmax),
    *norm_rules(_accepts_norm, _emit_norm),
    KernelRule("burnish::QAddLayerNorm", _accepts_quantized_norm, _emit_quantized_norm),
)
