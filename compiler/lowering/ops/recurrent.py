"""LSTM, GRU and RNN with weights that are known at run time, or with rare options.

What the kernel templates take never comes here. A task computes one sequence of the batch in one
direction, element by element.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import te, tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.graph import Node
from burnish.ir.types import FLOATS
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.activation import (
    clamp,
    hard_sigmoid,
    relu,
    sigmoid,
    softplus,
    softsign,
)
from burnish.lowering.ops.common import Scalar, bind, cast, const, like, select, wide, wide_dtype
from burnish.lowering.registry import kernel_rule
from burnish.lowering.te_context import Prim, int64

#: With ONNX's default parameters.
_ACTIVATIONS: dict[str, Scalar] = {
    "elu": lambda v: bind(v, lambda x: select(x < like(0, x), te.exp(x) - like(1, x), x)),
    "hardsigmoid": lambda v: hard_sigmoid(v, 0.2, 0.5),
    "leakyrelu": lambda v: bind(v, lambda x: select(x < like(0, x), x * like(0.01, x), x)),
    "relu": lambda v: bind(v, relu),
    "sigmoid": sigmoid,
    "softplus": softplus,
    "softsign": lambda v: bind(v, softsign),
    "tanh": te.tanh,
    "thresholdedrelu": lambda v: bind(v, lambda x: select(x > like(1, x), x, like(0, x))),
}
_DEFAULTS = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}


def _plain_activations(node: Node) -> str | None:
    for name in ("activation_alpha", "activation_beta"):
        if node.attrs.get(name):
            return f"attribute {name}"
    unknown = [a for a in node.strs_attr("activations") if a.lower() not in _ACTIVATIONS]
    return f"activation {unknown[0]}" if unknown else None


@dataclass
class _Cell:
    """One step of one sequence: reads ``x`` at a place, and updates the states.

    Attributes:
        kind: Type that is computed with.
        hidden: Size of the state.
        direction: Index of the direction.
        functions: Activations of this direction.
        clip: Bound of the arguments of activations, or None.
        h: The state.
        c: The cell state of an LSTM.
        gates: Results of all gates, one after the other.
    """

    kind: str
    hidden: Prim
    direction: Prim
    functions: Sequence[Scalar]
    clip: float | None
    x: Tensor
    w: Tensor
    r: Tensor
    b: Tensor | None
    p: Tensor | None
    count: int
    h: Any = field(init=False)
    c: Any = field(init=False)
    gates: Any = field(init=False)
    position: Callable[[Prim], Prim] = field(init=False)

    def __post_init__(self) -> None:
        self.h = tir.scratch(self.hidden, self.kind)
        self.c = tir.scratch(self.hidden, self.kind)
        self.gates = tir.scratch(self.hidden * self.count, self.kind)

    def act(self, function: Scalar, value: Prim) -> Prim:
        """An activation of a value, clipped before."""
        if self.clip is not None:
            value = clamp(value, like(-self.clip, value), like(self.clip, value))
        return function(value)

    def bias(self, gate: int, j: Prim, of_state: bool) -> Prim:
        """The input's or the state's bias of a gate."""
        if self.b is None:
            return const(0, self.kind)
        row = (gate + self.count * of_state) * self.hidden + j
        return wide(self.b.load(self.b.offset(self.direction, row)))

    def peephole(self, index: int, j: Prim) -> Prim:
        """The part of the cell state in an LSTM's gate."""
        if self.p is None:
            return const(0, self.kind)
        at = self.p.offset(self.direction, index * self.hidden + j)
        return wide(self.p.load(at)) * tir.load(self.c, j)

    def product(self, weights: Tensor, gate: int, j: Prim, read: Callable[[Prim], Prim]) -> Prim:
        """A row of a weight matrix times what ``read`` gives."""
        total = tir.local(1, self.kind)
        tir.store(total, 0, const(0, self.kind))
        row = gate * self.hidden + j
        with tir.serial(weights.shape[2]) as k:
            weight = wide(weights.load(weights.offset(self.direction, row, k)))
            tir.store(total, 0, tir.load(total, 0) + read(k) * weight)
        return tir.let(tir.load(total, 0))

    def of_input(self, gate: int, j: Prim) -> Prim:
        """The input's part of a gate, with its bias."""
        product = self.product(self.w, gate, j, lambda k: wide(self.x.load(self.position(k))))
        return product + self.bias(gate, j, False)

    def of_state(self, gate: int, j: Prim) -> Prim:
        """The state's part of a gate, with its bias."""
        product = self.product(self.r, gate, j, lambda k: tir.load(self.h, k))
        return product + self.bias(gate, j, True)

    def gate(self, gate: int, j: Prim) -> Prim:
        """What :meth:`keep` has stored."""
        return tir.load(self.gates, gate * self.hidden + j)

    def keep(self, gate: int, j: Prim, value: Prim) -> None:
        """Store the result of a gate."""
        tir.store(self.gates, gate * self.hidden + j, value)


def _lstm(cell: _Cell, coupled: bool) -> None:
    f, g, h = cell.functions
    with tir.serial(cell.hidden) as j:
        forget = cell.of_input(2, j) + cell.of_state(2, j) + cell.peephole(2, j)
        cell.keep(2, j, cell.act(f, forget))
        if coupled:
            cell.keep(0, j, const(1, cell.kind) - cell.gate(2, j))
        else:
            entry = cell.of_input(0, j) + cell.of_state(0, j) + cell.peephole(0, j)
            cell.keep(0, j, cell.act(f, entry))
        cell.keep(1, j, cell.of_input(1, j) + cell.of_state(1, j))
        cell.keep(3, j, cell.act(g, cell.of_input(3, j) + cell.of_state(3, j)))
    with tir.serial(cell.hidden) as j:
        old = tir.load(cell.c, j)
        tir.store(cell.c, j, cell.gate(2, j) * old + cell.gate(0, j) * cell.gate(3, j))
        out = tir.let(cell.act(f, cell.gate(1, j) + cell.peephole(1, j)))
        tir.store(cell.h, j, out * h(tir.load(cell.c, j)))


def _gru(cell: _Cell, linear_before_reset: bool) -> None:
    f, g = cell.functions
    with tir.serial(cell.hidden) as j:
        for gate in (0, 1):
            cell.keep(gate, j, cell.act(f, cell.of_input(gate, j) + cell.of_state(gate, j)))
    with tir.serial(cell.hidden) as j:
        if linear_before_reset:
            state = cell.gate(1, j) * cell.of_state(2, j)
        else:
            reset = cell.product(cell.r, 2, j, lambda k: tir.load(cell.h, k) * cell.gate(1, k))
            state = reset + cell.bias(2, j, True)
        cell.keep(2, j, cell.act(g, cell.of_input(2, j) + state))
    with tir.serial(cell.hidden) as j:
        z, old = cell.gate(0, j), tir.load(cell.h, j)
        tir.store(cell.h, j, (const(1, cell.kind) - z) * cell.gate(2, j) + z * old)


def _rnn(cell: _Cell, _: bool) -> None:
    (f,) = cell.functions
    with tir.serial(cell.hidden) as j:
        cell.keep(0, j, cell.act(f, cell.of_input(0, j) + cell.of_state(0, j)))
    with tir.serial(cell.hidden) as j:
        tir.store(cell.h, j, cell.gate(0, j))


_STEPS: dict[str, tuple[int, Callable[[_Cell, bool], None]]] = {
    "LSTM": (4, _lstm),
    "GRU": (3, _gru),
    "RNN": (1, _rnn),
}


@dataclass(frozen=True)
class _Sequence:
    """One direction of one sequence of the batch.

    Attributes:
        cell: Its cell.
        layout: ONNX's attribute.
        n: Index of the sequence.
        backwards: Whether the last step comes first.
        length: Steps of all sequences.
        lengths: Steps of each sequence; None if they are all used.
    """

    cell: _Cell
    layout: int
    n: Prim
    backwards: bool
    length: Prim
    lengths: Tensor | None

    def state_index(self, j: Prim) -> tuple[Prim, ...]:
        """Where an element of an initial or final state lies."""
        d = self.cell.direction
        return (d, self.n, j) if self.layout == 0 else (self.n, d, j)

    def start(self, state: Any, given: Tensor | None) -> None:
        """Set a state to what is given, or to zero."""
        with tir.serial(self.cell.hidden) as j:
            zero = const(0, self.cell.kind)
            value = zero if given is None else wide(given.load(given.offset(*self.state_index(j))))
            tir.store(state, j, value)

    def run(self, advance: Callable[[_Cell], None], y: Tensor | None) -> None:
        """All steps; the output is zero behind the end of the sequence."""
        cell, x = self.cell, self.cell.x
        end = tir.i64(self.length)
        if self.lengths is not None:
            end = tir.let(tirx.min(cast(self.lengths.load(self.n), "int64"), end))
        with tir.serial(self.length) as step:
            inside = tir.i64(step) < end
            t = step
            if self.backwards:
                t = tir.let(tirx.Select(inside, end - int64(1) - step, tir.i64(step)))
            lead = (t, self.n) if self.layout == 0 else (self.n, t)
            cell.position = lambda k: x.offset(*lead, k)

            def output(zero: bool) -> None:
                if y is None:
                    return
                d = cell.direction
                at = (t, d, self.n) if self.layout == 0 else (self.n, t, d)
                with tir.serial(cell.hidden) as j:
                    value = const(0, cell.kind) if zero else tir.load(cell.h, j)
                    y.store(y.offset(*at, j), cast(value, y.dtype))

            def step_inside() -> None:
                advance(cell)
                output(False)

            tir.branch(True if self.lengths is None else inside, step_inside, lambda: output(True))

    def finish(self, state: Any, final: Tensor | None) -> None:
        """Write a final state."""
        if final is None:
            return
        with tir.serial(self.cell.hidden) as j:
            at = final.offset(*self.state_index(j))
            final.store(at, cast(tir.load(state, j), final.dtype))


@dataclass(frozen=True)
class _Options:
    """Attributes, and the inputs that may be absent.

    Attributes:
        activations: Names for all directions; empty for the operator's own.
        clip: Bound of the arguments of activations, or None.
        direction: ONNX's attribute.
        layout: ONNX's attribute.
        variant: ``input_forget`` of an LSTM, ``linear_before_reset`` of a GRU.
        lengths: Steps of each sequence.
        initial: The initial states.
    """

    activations: tuple[str, ...] | None
    clip: float | None
    direction: str
    layout: int
    variant: bool
    lengths: Tensor | None
    initial: tuple[Tensor | None, Tensor | None]


def _recurrent(
    ctx: KernelContext,
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    options: _Options,
) -> None:
    op = ctx.node.op
    count, step = _STEPS[op]
    w, r, b, p = weights
    directions = 2 if options.direction == "bidirectional" else 1
    names = options.activations or _DEFAULTS[op] * directions
    functions = [_ACTIVATIONS[name.lower()] for name in names]
    each = len(functions) // directions
    length, batch = x.shape[:2] if options.layout == 0 else x.shape[1::-1]
    y, final_h, final_c = (*ctx.outputs, None, None)[:3]
    for index in range(directions):
        backwards = options.direction == "reverse" or index == 1
        own = functions[index * each :][:each]
        with tir.parallel(batch) as n:
            cell = _Cell(
                wide_dtype(x.dtype), r.shape[2], index, own, options.clip, x, w, r, b, p, count
            )
            sequence = _Sequence(cell, options.layout, n, backwards, length, options.lengths)
            sequence.start(cell.h, options.initial[0])
            sequence.start(cell.c, options.initial[1])
            sequence.run(lambda c: step(c, options.variant), y)
            sequence.finish(cell.h, final_h)
            sequence.finish(cell.c, final_c)


_rule = functools.partial(kernel_rule, dtypes=FLOATS | {"int32"}, check=_plain_activations)


@_rule("LSTM")
def lstm(
    ctx: KernelContext,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> None:
    """LSTM-22."""
    states = (initial_h, initial_c)
    options = _Options(
        activations, clip, direction, layout, bool(input_forget), sequence_lens, states
    )
    _recurrent(ctx, x, (w, r, b, p), options)


@_rule("GRU")
def gru(
    ctx: KernelContext,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> None:
    """GRU-22."""
    states = (initial_h, None)
    options = _Options(
        activations, clip, direction, layout, bool(linear_before_reset), sequence_lens, states
    )
    _recurrent(ctx, x, (w, r, b, None), options)


@_rule("RNN")
def rnn(
    ctx: KernelContext,
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] | None = None,
    activation_beta: tuple[float, ...] | None = None,
    activations: tuple[str, ...] = ("Tanh", "Tanh"),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> None:
    """RNN-22."""
    # ONNX's default has a function for each of two directions.
    count = 2 if direction == "bidirectional" else 1
    states = (initial_h, None)
    options = _Options(activations[:count], clip, direction, layout, False, sequence_lens, states)
    _recurrent(ctx, x, (w, r, b, None), options)
