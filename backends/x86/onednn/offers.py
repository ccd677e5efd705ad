"""What all tactics of oneDNN share: the question whether it has an implementation, and the call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from tvm import relax

from burnish.backends.base import Refused
from burnish.backends.x86.onednn.operations import Operation, Operations, implementation
from burnish.ir import Dim, Node, TensorType
from burnish.ir.dims import add, product
from burnish.ir.types import to_numpy
from burnish.lowering.context import Lowered, NodeContext
from burnish.lowering.tactics import Tactic

#: Whose tactics they are.
LIBRARY = "onednn"

#: Measured on products and convolutions of ResNet-50 and BERT: how much longer oneDNN takes than
#: the generated kernel of the same algorithm, and what the call of a primitive costs.
_FACTOR = 1.06
_CALL_CYCLES = 3000.0

#: The same of its implementations for AMX, which no generated kernel uses: 1024 products of bytes
#: in a cycle, where two vector units make 128 (Intel's optimization reference manual, on AMX). Half
#: of these 8 times are expected; it was not measured, ``--tune`` does that.
_AMX, _AMX_FACTOR = "amx", 0.25


def offered(
    ctx: NodeContext,
    node: Node,
    operation: Operation,
    sizes: Sequence[int],
    generated: Iterable[Tactic],
    emit: Callable[[], None],
) -> Iterator[Tactic]:
    """The tactic of an operation, unless oneDNN has none, or only one that is slow on purpose.

    Args:
        ctx: Of the node.
        node: What is computed.
        operation: The operation.
        sizes: What its implementation is asked for.
        generated: Tactics of the same algorithm, by which it is estimated.
        emit: Emits the call.
    """
    found = implementation(operation, [max(s, 1) for s in sizes], ctx.isa.name)
    if found and not found.startswith("ref"):
        factor = _AMX_FACTOR if _AMX in found else _FACTOR
        cost = factor * min(t.cost for t in generated) + _CALL_CYCLES
        yield Tactic(f"{LIBRARY} {found}", cost, emit, LIBRARY)
        return
    why = f"only the implementation {found}" if found else "no implementation"
    note(ctx, node, Refused(why))


def _operations(ctx: NodeContext) -> Operations:
    externals = ctx.function.module.externals
    found = externals.setdefault(LIBRARY, Operations())
    assert isinstance(found, Operations)
    return found


def note(ctx: NodeContext, node: Node, refused: Refused) -> None:
    """Say in the report why a node has no tactic."""
    _operations(ctx).refused[f"{node.key} {node.location}"] = refused.reason


def call_operation(
    ctx: NodeContext,
    operation: Operation,
    tensors: Sequence[Lowered],
    output: TensorType,
    flops: Dim,
) -> Lowered:
    """Emit the call of an operation."""
    function = ctx.function
    name = _operations(ctx).add(operation)
    arguments = relax.Tuple([t.expr for t in tensors])
    call = relax.call_dps_packed(name, arguments, function.relax_type(output))
    result = Lowered(function.builder.emit(call), output.dims, output.dtype)
    nbytes: Dim = 0
    for tensor in (*tensors, result):
        nbytes = add(nbytes, product([to_numpy(tensor.dtype).itemsize, *tensor.dims]))
    ctx.record(name, [output], flops, "", nbytes)
    return result
