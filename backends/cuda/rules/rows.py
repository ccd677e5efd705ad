"""Softmax and normalizations over rows."""

from __future__ import annotations

from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cuda.rows import NormSpec, SoftmaxSpec, norm, softmax
from burnish.backends.cuda.rules.common import (
    lower_operands,
    postops_key,
    postops_of,
    refuse_floats,
    refuse_operands,
)
from burnish.backends.cuda.tir import product
from burnish.ir import Node, Value
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


def _is_row(value: Value | None, width: object) -> bool:
    return value is None or (len(value.shape) == 1 and value.shape[0] == width)


def _accepts_norm(node: Node, skip: bool, affine: int) -> Refused | None:
    x = node.required(0)
    width = x.shape[-1] if x.shape else None
    if not isinstance(width, int):
        return Refused("the size of the last axis is not known")
    if not skip:
        if node.int_attr("axis", -1) % len(x.shape) != len(x.shape) - 1:
            return Refused("it normalizes over more than the last axis")
        if any(v is not None for v in node.outputs[1:]):
            return Refused("mean or deviation is an output")
    elif not x.t.same_shape(node.required(1).t):
        return Refused("the residual is broadcast")
    first = 1 + skip
    if not all(_is_row(node.input(i), width) for i in range(first, first + affine)):
        return Refused("scale or bias is not of the size of the last axis")
    operands = refuse_operands(node, first + affine) if skip else None
    return refuse_floats([*node.inputs[: first + affine], *node.outputs]) or operands


def _emit_norm(
    ctx: NodeContext, node: Node, kind: Literal["layer", "rms"], skip: bool, affine: int
) -> None:
    tensors = [ctx.tensor(node.required(i)) for i in range(1 + skip)]
    width = tensors[0].dims[-1]
    assert isinstance(width, int)
    present = [node.input(1 + skip + i) for i in range(affine)]
    tensors += [ctx.tensor(v) for v in present if v is not None]
    postops = postops_of(node) if skip else ()
    operands = lower_operands(ctx, node, 1 + skip + affine) if skip else []
    outputs = [v.t for v in node.outputs if v is not None]
    epsilon = node.float_attr("epsilon", 1e-5)
    flags = (present[0] is not None, len(present) > 1 and present[1] is not None)

    def build(shapes: CallShapes) -> Any:
        return norm(
            NormSpec(
                rows=shapes.inputs[0][:-1],
                width=width,
                kind=kind,
                epsilon=epsilon,
                scale=flags[0],
                bias=flags[1],
                skip=skip,
                keep_sum=len(outputs) > 1,
                dtypes=(*(t.dtype for t in tensors), *(t.dtype for t in outputs)),
                postops=postops,
                operands=tuple(t.dtype for t in operands),
            )
        )

    key = (kind, epsilon, flags, skip, len(outputs), postops_key(postops))
    name = f"{'add_' if skip else ''}{kind}_norm"
    ctx.set(*ctx.call(name, key, build, [*tensors, *operands], outputs))


def _norm_rule(key: str, kind: Literal["layer", "rms"], skip: bool) -> KernelRule:
    # RMSNormalization has a scale only.
    affine = 2 if kind == "layer" else 1
    return KernelRule(
        key,
        lambda node: _accepts_norm(node, skip, affine),
        lambda ctx, node: _emit_norm(ctx, node, kind, skip, affine),
    )


ROW_RULES = (
    KernelRule("Softmax", _accepts_softmax, _emit_softmax),
    KernelRule("LogSoftmax", _accepts_softmax, _emit_softmax),
    _norm_rule("LayerNormalization", "layer", False),
    _norm_rule("RMSNormalization", "rms", False),
    _norm_rule("burnish::AddLayerNorm", "layer", True),
    _norm_rule("burnish::AddRMSNorm", "rms", True),
)
