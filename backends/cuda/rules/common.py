"""What kernel rules share: refusals, and the operands of post-ops."""

from __future__ import annotations

from collections.abc import Iterable

from burnish.backends.base import Refused
from burnish.backends.composites import postops_of
from burnish.ir import Node, Value
from burnish.ir.postops import operands
from burnish.lowering.context import Lowered, NodeContext

#: Element types of tensors; everything is computed in float32.
FLOATS = ("float32", "float16")


def refuse_floats(values: Iterable[Value | None]) -> Refused | None:
    """Refuse element types that no template reads."""
    for value in values:
        if value is not None and value.dtype not in FLOATS:
            return Refused(f"no kernel for {value.dtype}")
    return None


def refuse_mixed(node: Node, count: int) -> Refused | None:
    """Refuse a product whose first ``count`` inputs and result are not of one float type."""
    values = [*node.inputs[:count], node.output]
    dtypes = {value.dtype for value in values if value is not None}
    if len(dtypes) > 1:
        return Refused(f"no kernel for {' and '.join(sorted(dtypes))} together")
    return refuse_floats(values)


def refuse_operands(node: Node, core: int) -> Refused | None:
    """Refuse post-op operands that the templates cannot read.

    Args:
        node: A composite.
        core: Number of inputs before the operands.
    """
    kinds = operands(postops_of(node))
    if len(node.inputs) - core != len(kinds):
        return Refused("the operands do not match the post-ops")
    for kind, value in zip(kinds, node.inputs[core:], strict=True):
        assert value is not None
        if kind == "channel" and value.shape[-1] != node.output.shape[-1]:
            return Refused("a channel operand of a post-op is not of the size of the last axis")
    return refuse_floats(node.inputs[core:])


def lower_operands(ctx: NodeContext, node: Node, core: int) -> list[Lowered]:
    """The operands of the post-ops as kernel arguments, in order."""
    lowered = []
    for kind, value in zip(operands(postops_of(node)), node.inputs[core:], strict=True):
        assert value is not None
        tensor = ctx.tensor(value)
        if kind == "channel":
            tensor = ctx.reshape(tensor, (tensor.dims[-1],))
        elif kind == "scalar":
            tensor = ctx.reshape(tensor, (1,))
        lowered.append(tensor)
    return lowered
