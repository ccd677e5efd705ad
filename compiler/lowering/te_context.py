"""What a lowering rule sees of its node: types, constants and shapes as TVM expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from tvm import te, tirx

from burnish.errors import LoweringError
from burnish.ir.dims import UNKNOWN, Call, Dim, Expr, equal
from burnish.ir.graph import Node, Value
from burnish.ir.types import TensorType

#: A scalar TIR expression. TVM ships no type information.
Prim: TypeAlias = Any


def int64(value: int) -> Prim:
    """An int64 constant."""
    return tirx.const(value, "int64")


@dataclass
class Symbols:
    """The TIR variable of every shape symbol; kernels of one module share them."""

    vars: dict[str, Any] = field(default_factory=dict)

    def var(self, name: str) -> Any:
        """The int64 variable of a symbol."""
        if name not in self.vars:
            self.vars[name] = tirx.Var(name, "int64")
        return self.vars[name]

    def expr(self, dim: Dim) -> Prim:
        """A dim as an int64 expression.

        Raises:
            LoweringError: The dim is UNKNOWN.
        """
        if isinstance(dim, int):
            return int64(dim)
        if not isinstance(dim, Expr):
            raise LoweringError(
                "a dimension depends on the data",
                hint="give the model fixed shapes with --input-shapes",
            )
        total: Prim = None
        for monomial, coefficient in dim.terms:
            term: Prim = None
            for atom in monomial:
                factor = self.var(atom) if isinstance(atom, str) else self._call(atom)
                term = factor if term is None else term * factor
            if term is None:
                term = int64(coefficient)
            elif coefficient != 1:
                term = term * int64(coefficient)
            total = term if total is None else total + term
        return total

    def _call(self, call: Call) -> Prim:
        function = {
            "floordiv": tirx.floordiv,
            "mod": tirx.floormod,
            "max": tirx.max,
            "min": tirx.min,
        }[call.fn]
        return function(self.expr(call.a), self.expr(call.b))


@dataclass(frozen=True)
class TeContext:
    """The node that a rule lowers.

    Attributes:
        node: The node.
        symbols: Variables of the shape symbols.
    """

    node: Node
    symbols: Symbols

    def in_type(self, index: int) -> TensorType:
        """Type of an input that is present."""
        return self.node.required(index).t

    def out_type(self, index: int = 0) -> TensorType:
        """Type of an output that is asked for."""
        value = self.node.outputs[index]
        if value is None:
            raise LoweringError(f"output {index} of {self.node.key} is not asked for")
        return value.t

    def has_output(self, index: int) -> bool:
        """Whether somebody asked for an output."""
        return index < len(self.node.outputs) and self.node.outputs[index] is not None

    def has_input(self, index: int) -> bool:
        """Whether an input is present."""
        return self.node.input(index) is not None

    def in_dims(self, index: int) -> tuple[Dim, ...]:
        """Dims of an input."""
        return self.in_type(index).dims

    def out_dims(self, index: int = 0) -> tuple[Dim, ...]:
        """Dims of an output."""
        return self.out_type(index).dims

    def expr(self, dim: Dim) -> Prim:
        """A dim as an int64 expression."""
        return self.symbols.expr(dim)

    def in_shape(self, index: int) -> tuple[Prim, ...]:
        """Shape of an input as int64 expressions."""
        return tuple(map(self.expr, self.in_dims(index)))

    def out_shape(self, index: int = 0) -> tuple[Prim, ...]:
        """Shape of an output as int64 expressions."""
        return tuple(map(self.expr, self.out_dims(index)))

    def constant(self, index: int) -> np.ndarray | None:
        """The data of an input that is a constant."""
        value = self.node.input(index)
        return value.array if value is not None and value.is_const else None

    def dims_of(self, index: int) -> tuple[Dim, ...] | None:
        """Elements of an integer input of rank 0 or 1, where they are known as dims."""
        value = self.node.input(index)
        return None if value is None else known_content(value)

    def content(self, index: int) -> tuple[Prim, ...] | None:
        """Elements of an integer input as int64 expressions, where they are known."""
        dims = self.dims_of(index)
        return None if dims is None else tuple(map(self.expr, dims))

    def ints(self, index: int) -> tuple[int, ...] | None:
        """Elements of an integer input, where they are numbers."""
        dims = self.dims_of(index)
        if dims is None or not all(isinstance(d, int) for d in dims):
            return None
        return tuple(d for d in dims if isinstance(d, int))

    def axis(self, axis: int, index: int = 0) -> int:
        """A possibly negative axis of an input, counted from the front."""
        rank = len(self.in_dims(index))
        return axis + rank if axis < 0 else axis

    def compute(self, body: Any, index: int = 0) -> te.Tensor:
        """``te.compute`` over the shape of an output; ``body`` takes one index for each dim."""
        name = self.node.op.lower()
        return te.compute(self.out_shape(index), lambda *i: body(*i), name=name)

    def broadcast(
        self, index: int, at: Sequence[Prim], out_dims: Sequence[Dim] | None = None
    ) -> tuple[Prim, ...]:
        """Where input ``index`` is read for the output element ``at``, by NumPy's broadcasting."""
        target = self.out_dims() if out_dims is None else out_dims
        dims = self.in_dims(index)
        return broadcast_index(self.symbols, dims, at, target)


def known_content(value: Value) -> tuple[Dim, ...] | None:
    """Elements of an integer tensor of rank 0 or 1 if all of them are known, else None."""
    if value.is_const:
        array = value.array
        if array.ndim > 1 or array.dtype.kind not in "iub":
            return None
        return tuple(int(v) for v in array.reshape(-1))
    if value.content is None or any(d is UNKNOWN for d in value.content):
        return None
    return value.content


def broadcast_index(
    symbols: Symbols, dims: Sequence[Dim], at: Sequence[Prim], target: Sequence[Dim]
) -> tuple[Prim, ...]:
    """The index into ``dims`` for index ``at`` of ``target``, to which ``dims`` broadcast."""
    skipped = len(target) - len(dims)
    index: list[Prim] = []
    for dim, out_dim, i in zip(dims, target[skipped:], at[skipped:], strict=True):
        if isinstance(dim, int) and dim == 1:
            index.append(int64(0))
        elif isinstance(dim, int) or equal(dim, out_dim):
            index.append(i)
        else:
            # Two symbols whose relation is unknown: the model may broadcast at run time.
            index.append(tirx.Select(symbols.expr(dim) == int64(1), int64(0), i))
    return tuple(index)
