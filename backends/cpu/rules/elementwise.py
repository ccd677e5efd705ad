"""One kernel for an Elementwise composite: the tensor expressions of its body, composed."""

from __future__ import annotations

from typing import Any

from tvm import te, tirx

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.rules.node_kernel import NodeKernel, apply, placeholder, scalar_constant
from burnish.backends.cpu.te_schedule import schedule_te
from burnish.ir import Graph, Node, Value
from burnish.lowering.module_ops import VIEWS
from burnish.lowering.te_context import Symbols


def elementwise_kernel(node: Node, name: str, isa: Isa, symbols: Symbols) -> NodeKernel:
    """The kernel of an Elementwise composite; its inputs are the composite's, in order.

    Raises:
        LoweringError: An operator of the body has no tensor expression.
    """
    body = node.attrs["body"]
    assert isinstance(body, Graph)
    outer = tuple(node.required(i) for i in range(len(node.inputs)))
    tensors: dict[Value, Any] = {
        v: placeholder(v, symbols, f"in{i}") for i, v in enumerate(body.inputs)
    }
    inputs = [tensors[v] for v in body.inputs]
    for inner in body.nodes:
        if inner.op in VIEWS and not inner.domain:
            source = inner.required(0)
            tensor = tensors.get(source)
            results: tuple[Any, ...] = (
                _view(
                    scalar_constant(source, symbols) if tensor is None else tensor,
                    inner.output,
                    symbols,
                ),
            )
        else:
            results = apply(inner, tensors, symbols)
        tensors.update(
            (v, r) for v, r in zip(inner.outputs, results, strict=False) if v is not None
        )
    built = schedule_te([tensors[v] for v in body.outputs], inputs, name, isa)
    outputs = tuple(v for v in node.outputs if v is not None)
    return NodeKernel(built, outer, outputs)


def _view(tensor: Any, value: Value, symbols: Symbols) -> Any:
    """A reshape as an index map: row-major offset in the new shape, unravelled in the old."""
    shape = [symbols.expr(d) for d in value.shape]
    old = list(tensor.shape)

    def read(*at: Any) -> Any:
        offset: Any = tirx.const(0, "int64")
        for i, extent in zip(at, shape, strict=True):
            offset = offset * extent + i
        index: list[Any] = []
        for extent in reversed(old):
            index.insert(0, tirx.floormod(offset, extent))
            offset = tirx.floordiv(offset, extent)
        return tensor(*index)

    return te.compute(shape, read, name="view")
