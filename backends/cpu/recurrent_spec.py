"""What a recurrent kernel computes, and how its constant operands are packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import Index

F32Array = npt.NDArray[np.float32]
Kind = Literal["LSTM", "GRU", "RNN"]

#: Gates of a cell, in ONNX's order: LSTM i o f c, GRU z r h.
GATES: dict[str, int] = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULT_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}


@dataclass(frozen=True, eq=False)
class RecurrentSpec:
    """An LSTM-22, GRU-22 or RNN-22 node.

    Attributes:
        kind: Operator.
        length: Time steps: an int or int64 expression.
        batch: Batch size: an int or int64 expression.
        inputs: Features of an input.
        hidden: Size of the hidden state.
        direction: As ONNX names it.
        bias: Whether there is a bias.
        sequence_lens: Whether there are lengths (int32) of the batch's sequences.
        initial_h: Whether there is an initial hidden state.
        initial_c: Whether there is an initial cell state (LSTM).
        peepholes: Whether there are peephole weights (LSTM).
        linear_before_reset: GRU variant.
        layout: 0: [length, batch, features]; 1: [batch, length, features].
        outputs: Which of ``Y``, ``Y_h``, ``Y_c`` are wanted.
    """

    kind: Kind
    length: Index
    batch: Index
    inputs: int
    hidden: int
    direction: Literal["forward", "reverse", "bidirectional"] = "forward"
    bias: bool = True
    sequence_lens: bool = False
    initial_h: bool = False
    initial_c: bool = False
    peepholes: bool = False
    linear_before_reset: bool = False
    layout: Literal[0, 1] = 0
    outputs: tuple[bool, bool, bool] = (True, True, True)

    @property
    def directions(self) -> int:
        """1, or 2 for bidirectional."""
        return 2 if self.direction == "bidirectional" else 1

    @property
    def gates(self) -> int:
        """Gates of the cell."""
        return GATES[self.kind]

    def sequence_shape(self, features: int) -> tuple[Index, ...]:
        """Shape of the input sequence."""
        lead = (self.length, self.batch) if self.layout == 0 else (self.batch, self.length)
        return (*lead, features)

    def output_shape(self) -> tuple[Index, ...]:
        """Shape of ``Y``."""
        if self.layout == 0:
            return (self.length, self.directions, self.batch, self.hidden)
        return (self.batch, self.length, self.directions, self.hidden)

    def state_shape(self) -> tuple[Index, ...]:
        """Shape of an initial or final state."""
        if self.layout == 0:
            return (self.directions, self.batch, self.hidden)
        return (self.batch, self.directions, self.hidden)


def supported_activations(kind: Kind, activations: tuple[str, ...], directions: int) -> bool:
    """Whether a node's activations (empty: the defaults) are those that the kernels have."""
    wanted = _DEFAULT_ACTIVATIONS[kind] * directions
    return not activations or tuple(a.lower() for a in activations) == tuple(
        a.lower() for a in wanted
    )


def _blocks(values: F32Array, gates: int, isa: Isa) -> F32Array:
    """[D, gates * hidden, K] -> [D, block, K, gates, lanes], hidden padded with 0."""
    directions, rows, depth = values.shape
    hidden = rows // gates
    blocks = -(-hidden // isa.lanes)
    padded = np.zeros((directions, gates, blocks * isa.lanes, depth), np.float32)
    padded[:, :, :hidden] = values.reshape(directions, gates, hidden, depth)
    split = padded.reshape(directions, gates, blocks, isa.lanes, depth)
    return np.ascontiguousarray(split.transpose(0, 2, 4, 1, 3)).reshape(-1)


def pack_recurrent_weights(w: npt.ArrayLike, kind: Kind, isa: Isa) -> F32Array:
    """``W`` or ``R`` [D, gates * hidden, depth] for the kernel: 1-D."""
    return _blocks(np.asarray(w, np.float32), GATES[kind], isa)


def pack_recurrent_bias(
    b: npt.ArrayLike, kind: Kind, linear_before_reset: bool, isa: Isa
) -> F32Array:
    """``B`` [D, 2 * gates * hidden] for the kernel: 1-D.

    The input's and the state's bias are added up, unless a GRU resets the state's: then they follow
    each other in each block.
    """
    gates = GATES[kind]
    array = np.asarray(b, np.float32)
    of_input, of_state = np.split(array, 2, axis=1)
    if kind == "GRU" and linear_before_reset:
        hidden = of_input.shape[1] // gates
        joint = of_input + of_state
        joint[:, 2 * hidden :] = of_input[:, 2 * hidden :]
        four = np.concatenate([joint, of_state[:, 2 * hidden :]], axis=1)
        return _blocks(four[:, :, None], 4, isa)
    return _blocks((of_input + of_state)[:, :, None], gates, isa)


def pack_peepholes(p: npt.ArrayLike, isa: Isa) -> F32Array:
    """``P`` [D, 3 * hidden] (gates i o f) for the kernel: 1-D."""
    return _blocks(np.asarray(p, np.float32)[:, :, None], 3, isa)
