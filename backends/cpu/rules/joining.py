"""Results that kernels write into the concatenation that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from burnish.backends.cpu.place import Place
from burnish.backends.cpu.tir import Kernel
from burnish.ir import Dim, Node, TensorType
from burnish.lowering.context import CallShapes, Lowered, NodeContext
from burnish.lowering.joins import Join, join_of


def join_for(ctx: NodeContext, node: Node) -> Join | None:
    """The concatenation that a node's result belongs to, if a kernel may write it there."""
    function = ctx.function
    found = join_of(function.graph, node.output)
    return None if found is None else function.joins.setdefault(found, Join(found))


def place_in(join: Join | None, node: Node) -> Place | None:
    """Where in the concatenation the result goes."""
    if join is None:
        return None
    return Place(join.total, join.offset(node.output), join.tensor is not None)


def call_into(
    ctx: NodeContext,
    node: Node,
    join: Join | None,
    name: str,
    key: Hashable,
    build: Callable[[CallShapes], Kernel],
    inputs: Sequence[Lowered],
    outputs: Sequence[TensorType],
    *,
    flops: Dim = 0,
    detail: str = "",
    over: int | None = None,
) -> None:
    """:meth:`NodeContext.call` of a kernel that makes the node's output, which is bound.

    Args:
        ctx: The node's context.
        node: The node.
        join: Where the kernel writes its result, at :func:`place_in`; None for a tensor of its own.
        name: As for :meth:`NodeContext.call`.
        key: The same; it has the place in it.
        build: The same.
        inputs: The same, without the concatenation's tensor.
        outputs: The same for a tensor of its own: the result, its channels last, then memory that
            the kernel needs, which is not for one that writes into a concatenation.
        flops: The same.
        detail: The same.
        over: The same.
    """
    arguments = list(inputs)
    if join is not None:
        outputs = [join.type(outputs[0].dims[:-1])]
        if join.tensor is not None:
            over = len(arguments)
            arguments.append(ctx.reshape(join.tensor, outputs[0].dims))
    result, *_ = ctx.call(
        name, key, build, arguments, outputs, flops=flops, detail=detail, over=over
    )
    if join is None:
        ctx.set(ctx.reshape(result, node.output.shape))
    else:
        join.tensor = result
        join.written.add(node.output)
