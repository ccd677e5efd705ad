"""If and Loop: their subgraphs as private Relax functions.

A loop is run by the native function ``burnish.loop``, which calls the body's function once for each
iteration: no code of a loop grows with the number of iterations, nor does the stack.
"""

from __future__ import annotations

from typing import Any

from tvm import relax
from tvm.ir import StringImm

from burnish.errors import LoweringError
from burnish.ir import Graph, Node, TensorType, Value
from burnish.lowering.context import Lowered, NodeContext
from burnish.lowering.module import FunctionLowering


def emit_control(function: FunctionLowering, node: Node) -> None:
    """Emit an If or a Loop."""
    (_emit_if if node.key == "If" else _emit_loop)(function, node)


def _results(function: FunctionLowering, node: Node, result: Any) -> None:
    """Bind the node's outputs to the items of a tuple; unknown sizes get their values here."""
    results = []
    for i, value in enumerate(node.outputs):
        if value is None:
            continue
        item = function.builder.emit(relax.TupleGetItem(result, i))
        typed = function.builder.match_cast(item, function.relax_type(value.t))
        results.append(Lowered(typed, value.shape, value.dtype))
    NodeContext(function, node).set(*results)


def _emit_if(function: FunctionLowering, node: Node) -> None:
    condition = function.reshape(function.tensor(node.required(0)), ())
    branches = []
    for attr in ("then_branch", "else_branch"):
        graph = node.attrs[attr]
        assert isinstance(graph, Graph)
        branch = BranchLowering(function, graph, function.module.branch_name("if"))
        branch.build()
        branches.append(branch)
    calls = [relax.Call(b.var, b.arguments()) for b in branches]
    _results(function, node, function.builder.emit(relax.If(condition.expr, *calls)))


def _emit_loop(function: FunctionLowering, node: Node) -> None:
    """Emit the call of the native loop; see ``csrc/dynamic.h`` for its arguments."""
    graph = node.attrs["body"]
    assert isinstance(graph, Graph)
    trips, condition = node.input(0), node.input(1)
    assert trips is not None
    assert condition is not None
    body = BodyLowering(function, graph, function.module.branch_name("loop"))
    body.build()
    carried = [function.tensor(v).expr for v in node.inputs[2:] if v is not None]
    scanned = graph.outputs[1 + len(carried) :]
    empty: list[Any] = []
    for value in scanned:
        sizes = [d if isinstance(d, int) else 0 for d in value.shape]
        empty += [relax.ShapeExpr([0, *sizes]), StringImm(value.dtype)]
    dims, *captured = body.arguments()
    arguments = relax.Tuple(
        [
            body.var,
            function.reshape(function.tensor(trips), ()).expr,
            function.reshape(function.tensor(condition), ()).expr,
            relax.prim_value(len(carried)),
            relax.prim_value(len(scanned)),
            *empty,
            dims,
            *carried,
            *captured,
        ]
    )
    types = [_ranked(v.t) for v in node.outputs if v is not None]
    if len(types) != len(carried) + len(scanned):
        raise LoweringError("a loop with outputs that are left out")
    call = relax.op.call_builtin_with_ctx("burnish.loop", arguments, ty_args=relax.TupleType(types))
    _results(function, node, function.builder.emit(call))


def _ranked(t: TensorType) -> Any:
    """A type of which the sizes are not known yet."""
    return relax.TensorType(dtype=t.dtype, ndim=len(t.dims))


class BranchLowering(FunctionLowering):
    """A subgraph as a private function: its parameters are what it captures.

    The symbols of the outer function come as one shape parameter, so that every dim is defined
    whatever the captured tensors look like.
    """

    def __init__(self, outer: FunctionLowering, graph: Graph, name: str) -> None:
        super().__init__(outer.module, graph, name)
        self.outer = outer
        self.captured: dict[Value, Any] = {}
        self.var: Any = None
        self.outer_symbols = sorted(outer.symbols.vars)

    def tensor(self, value: Value) -> Lowered:
        """A value of this graph, or one captured from the outer one."""
        local = value.is_const or (value.producer is not None and value.producer in self.graph)
        if not local and value not in self.env:
            outer = self.outer.tensor(value)
            var = relax.Var(f"c{len(self.captured)}", self.relax_type(value.t))
            self.captured[value] = var
            self.env[value] = Lowered(var, outer.dims, outer.dtype)
        return super().tensor(value)

    def parameters(self) -> list[Any]:
        """The function's first parameters, after the sizes."""
        return []

    def build(self) -> None:
        """Emit the function."""
        shape = relax.Var(
            "dims", relax.ShapeType([self.symbols.var(s) for s in self.outer_symbols])
        )
        own = self.parameters()
        with self.builder.function(self.name, private=True):
            outputs = self.lower_nodes()
            params = [shape, *own, *self.captured.values(), *self.weight_vars.values()]
            local = self.builder.emit_func_output(relax.Tuple(outputs), params=params)
        self.var = self.module.builder.add_func(self.builder.get()[local], self.name)

    def arguments(self) -> list[Any]:
        """The sizes and what the outer function passes for captures and weights, in order."""
        dims = relax.ShapeExpr([self.outer.symbols.var(s) for s in self.outer_symbols])
        captured = [self.outer.tensor(v).expr for v in self.captured]
        return [dims, *captured, *(self.outer.weight_var(i) for i in self.weight_vars)]


class BodyLowering(BranchLowering):
    """The body of a Loop: its inputs are parameters too.

    Sizes of carried values that change between iterations are symbols of the body alone. Nobody
    writes to what it returns, so that a value that is carried on as it is needs no copy.
    """

    owns_outputs = False

    def parameters(self) -> list[Any]:
        """Iteration, condition and carried values."""
        params = []
        for i, value in enumerate(self.graph.inputs):
            var = relax.Var(f"p{i}", self.relax_type(value.t))
            self.env[value] = Lowered(var, value.shape, value.dtype)
            params.append(var)
        return params
