"""Relax code for sizes that are known at run time only: reading them, and checking them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm import relax
from tvm.ir import StringImm

from burnish.ir import Node
from burnish.ir.dims import symbols
from burnish.ir.infer import Guard, node_guards
from burnish.lowering.context import Lowered
from burnish.lowering.scope import indices

if TYPE_CHECKING:
    from burnish.lowering.module import FunctionLowering


def _where(node: Node) -> str:
    return str(node.location) or node.name


def bind_sizes(function: FunctionLowering, node: Node) -> None:
    """Emit ``Bind``: read an int64 tensor on the host; its elements are symbols from here on."""
    sizes, result = function.tensor(node.required(0)), node.output
    assert result.content is not None
    read = relax.Call(
        relax.ExternFunc("burnish.read_sizes"),
        [sizes.expr, StringImm(_where(node))],
        ty_args=[relax.ShapeType(ndim=len(result.content))],
    )
    shape = function.builder.emit(read)
    known = relax.ShapeType(list(indices(function.symbols, result.content)))
    function.builder.match_cast(shape, known)
    function.env[result] = Lowered(sizes.expr, sizes.dims, sizes.dtype)


def check_sizes(function: FunctionLowering, node: Node) -> None:
    """Emit checks of what a node demands of sizes that nothing has checked before it runs.

    The sizes of the model's inputs are checked when it is called, as far as the whole model demands
    it; those that depend on data, and all that only a branch demands, are checked here.
    """
    if not function.module.has_run_time_sizes or any(True for _ in node.subgraphs()):
        return
    checked_at_call = function.graph.parent is None
    bound_at_call = {s for v in function.module.graph.inputs for d in v.shape for s in symbols(d)}
    for guard in node_guards(node):
        names = symbols(guard.a) | symbols(guard.b)
        if not (checked_at_call and names <= bound_at_call):
            _check(function, guard)


def _check(function: FunctionLowering, guard: Guard) -> None:
    sizes = relax.ShapeExpr(list(indices(function.symbols, (guard.a, guard.b))))
    where = f"{guard} must hold for {guard.node}"
    function.builder.emit(
        relax.Call(
            relax.ExternFunc("burnish.check_sizes"),
            [sizes, StringImm(guard.kind), StringImm(where)],
            ty_args=[relax.TupleType([])],
        )
    )
