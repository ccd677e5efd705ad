"""The cells of recurrent operators, on one vector of the hidden state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from burnish.backends.cpu import vmath
from burnish.backends.cpu.tir import Expr, constant, lanes_of, let


@dataclass(frozen=True)
class CellInputs:
    """What a cell reads.

    Attributes:
        of_input: The input's part of a gate, with biases.
        of_state: The state's part of a gate.
        h: Hidden state before the step.
        c: Cell state before the step.
        peephole: Peephole weights of a gate, None without.
        state_bias: Bias of the state's part of the last gate (GRU, linear before reset).
        bias_is_split: Whether ``of_input`` lacks that bias.
    """

    of_input: Callable[[int], Expr]
    of_state: Callable[[int], Expr]
    h: Expr
    c: Expr
    peephole: Callable[[int], Expr | None]
    state_bias: Callable[[], Expr | None]
    bias_is_split: bool

    def gate(self, index: int) -> Expr:
        """Sum of both parts."""
        return let(self.of_input(index) + self.of_state(index))


Cell = Callable[[CellInputs, "Expr | None"], "tuple[Expr, Expr | None]"]


def _lstm(x: CellInputs, _: Expr | None) -> tuple[Expr, Expr | None]:
    """Gates in ONNX's order i o f c; peepholes i o f."""

    def looked(index: int, cell: Expr) -> Expr:
        weight = x.peephole(index)
        return x.gate(index) if weight is None else let(x.gate(index) + weight * cell)

    i = vmath.sigmoid(looked(0, x.c))
    f = vmath.sigmoid(looked(2, x.c))
    candidate = vmath.tanh(x.gate(3))
    c = let(f * x.c + i * candidate)
    o = vmath.sigmoid(looked(1, c))
    return let(o * vmath.tanh(c)), c


def _blend(z: Expr, candidate: Expr, h: Expr) -> Expr:
    return let((constant(1.0, lanes_of(z)) - z) * candidate + z * h)


def _gru(x: CellInputs, _: Expr | None) -> tuple[Expr, Expr | None]:
    """Linear before reset: the product is reset, with its bias."""
    z = vmath.sigmoid(x.gate(0))
    r = vmath.sigmoid(x.gate(1))
    bias = x.state_bias() if x.bias_is_split else None
    linear = x.of_state(2) if bias is None else let(x.of_state(2) + bias)
    return _blend(z, vmath.tanh(let(x.of_input(2) + r * linear)), x.h), None


def _gru_reset(x: CellInputs, _: Expr | None) -> tuple[Expr, Expr | None]:
    """First pass: the update gate and the reset state."""
    return vmath.sigmoid(x.gate(0)), let(vmath.sigmoid(x.gate(1)) * x.h)


def _gru_update(x: CellInputs, z: Expr | None) -> tuple[Expr, Expr | None]:
    """Second pass: the state's part of gate 2 is the product of the reset state."""
    assert z is not None
    return _blend(z, vmath.tanh(x.gate(2)), x.h), None


def _rnn(x: CellInputs, _: Expr | None) -> tuple[Expr, Expr | None]:
    return vmath.tanh(x.gate(0)), None


#: Cells by name: both states after the step (or what the first pass of a GRU keeps).
CELLS: dict[str, Cell] = {
    "LSTM": _lstm,
    "GRU": _gru,
    "GRU-reset": _gru_reset,
    "GRU-update": _gru_update,
    "RNN": _rnn,
}
