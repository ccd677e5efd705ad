"""What kernel rules share: refusals and the operands of post-ops."""

from __future__ import annotations

from burnish.backends.base import Refused
from burnish.backends.composites import postops_of
from burnish.backends.cpu.epilogue import pack_channel, pack_scalar
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.narrow import NARROW
from burnish.ir import Node
from burnish.ir.postops import operands
from burnish.lowering.context import Lowered, NodeContext


def refuse_dtype(
    node: Node, count: int | None = None, *, dtypes: tuple[str, ...] = ("float32", *NARROW)
) -> Refused | None:
    """Refuse nodes whose first ``count`` inputs and output are not all of one of ``dtypes``."""
    found = {v.dtype for v in (*node.inputs[:count], node.output) if v is not None}
    if len(found) == 1 and found <= set(dtypes):
        return None
    return Refused(f"no kernel for {' with '.join(sorted(found))}")


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
        if kind in ("channel", "scalar") and not value.is_const:
            return Refused(f"the {kind} operand of a post-op is not constant")
    return None


def lower_operands(
    ctx: NodeContext, node: Node, core: int, isa: Isa | None = None
) -> list[Lowered]:
    """The operands of the post-ops as arguments of a kernel built for ``isa``, in order.

    Args:
        ctx: The node's context.
        node: A composite.
        core: Number of inputs before the operands.
        isa: The target's by default.
    """
    made = isa or ctx.isa
    lowered = []
    for kind, value in zip(operands(postops_of(node)), node.inputs[core:], strict=True):
        assert value is not None
        if kind == "channel":
            pack = lambda a: pack_channel(a, made)  # noqa: E731
            lowered.append(ctx.weight(value, ("channel", made.lanes), pack))
        elif kind == "scalar":
            lowered.append(ctx.weight(value, "scalar", pack_scalar))
        else:
            lowered.append(ctx.tensor(value))
    return lowered
