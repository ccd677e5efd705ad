"""LSTM, GRU and RNN (ONNX LSTM-22, GRU-22, RNN-22) as one kernel with the time loop inside.

A task computes a few rows of the batch in one direction: first the input's part of the gates for
all time steps as a matrix product, then step by step the state's part, with the cell computed for
one vector of the hidden state at a time. All gates of a vector lie together in the packed weights.

Arguments: ``X``, packed ``W``, ``R``, ``B`` and ``P`` (:mod:`recurrent_spec`), ``sequence_lens``
(int32), ``initial_h``, ``initial_c``, as far as the spec has them, then the wanted outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx

from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.microkernel import RegisterTile
from burnish.backends.cpu.recurrent_cell import CELLS, CellInputs
from burnish.backends.cpu.recurrent_spec import RecurrentSpec
from burnish.backends.cpu.tir import (
    Acc,
    Expr,
    Index,
    Kernel,
    KernelBuilder,
    Tensor,
    branch,
    ceildiv,
    constant,
    floordiv,
    floormod,
    kernel,
    let,
    load,
    minimum,
    parallel,
    scratch,
    serial,
    splat,
    static,
    store,
)

#: Most rows of the batch in one task.
_ROWS = 4
#: Most time steps in one register tile of the input's product.
_STEPS = 6


def recurrent(isa: Isa, spec: RecurrentSpec, name: str = "") -> Kernel:
    """Build the kernel of ``spec``; arguments as in the module's docstring."""
    with kernel(name or spec.kind.lower(), isa) as k:
        args = _Arguments.declare(k, spec)
        batch = static(spec.batch)

        def tasks(rows: int) -> None:
            chunks = ceildiv(batch, rows)
            with parallel(chunks * spec.directions) as task:
                direction = floormod(task, spec.directions)
                chunk = floordiv(task, spec.directions)
                _Task(isa, spec, args, rows, let(direction), let(chunk * rows)).emit()

        most = min(_ROWS, _tile_rows(isa, spec))
        if isinstance(batch, int):
            tasks(-(-batch // -(-batch // most)))
        else:
            branch(batch == 1, lambda: tasks(1), lambda: tasks(most))
    return k.result


def _tile_rows(isa: Isa, spec: RecurrentSpec) -> int:
    """Rows of a register tile with all gates: accumulators, weights and one state fit."""
    return max(1, (isa.registers - spec.gates - 1) // spec.gates)


@dataclass(frozen=True)
class _Arguments:
    """The tensors of the kernel; None for those that the node does not have."""

    x: Tensor
    w: Tensor
    r: Tensor
    bias: Tensor | None
    peepholes: Tensor | None
    lengths: Tensor | None
    initial: tuple[Tensor | None, Tensor | None]
    y: Tensor | None
    final: tuple[Tensor | None, Tensor | None]

    @classmethod
    def declare(cls, k: KernelBuilder, spec: RecurrentSpec) -> _Arguments:
        vectors = -(-spec.hidden // k.isa.lanes)
        column = spec.directions * vectors * k.isa.lanes
        split_bias = spec.kind == "GRU" and spec.linear_before_reset
        state = spec.state_shape()

        def given(present: bool, name: str, shape: Any, dtype: str = "float32") -> Tensor | None:
            return k.input(name, shape, dtype) if present else None

        x = k.input("x", spec.sequence_shape(spec.inputs))
        w = k.input("w", (column * spec.gates * spec.inputs,))
        r = k.input("r", (column * spec.gates * spec.hidden,))
        bias = given(spec.bias, "b", (column * (4 if split_bias else spec.gates),))
        peepholes = given(spec.peepholes, "p", (column * 3,))
        lengths = given(spec.sequence_lens, "sequence_lens", (spec.batch,), "int32")
        initial_h = given(spec.initial_h, "initial_h", state)
        initial_c = given(spec.initial_c, "initial_c", state)
        shapes = (spec.output_shape(), state, state)
        outputs = [
            k.output(name, shape) if wanted else None
            for name, shape, wanted in zip(("y", "y_h", "y_c"), shapes, spec.outputs, strict=True)
        ]
        return cls(
            x, w, r, bias, peepholes, lengths, (initial_h, initial_c), outputs[0],
            (outputs[1], outputs[2]),
        )  # fmt: skip


@dataclass
class _Task:
    """Rows ``first`` .. ``first + rows`` of the batch in one direction, through all time steps."""

    isa: Isa
    spec: RecurrentSpec
    args: _Arguments
    rows: int
    direction: Index
    first: Index
    acc: Acc = field(init=False)

    def __post_init__(self) -> None:
        self.lanes = self.isa.lanes
        self.gates = self.spec.gates
        self.vectors = -(-self.spec.hidden // self.lanes)
        self.width = self.vectors * self.lanes
        self.length = static(self.spec.length)

    def emit(self) -> None:
        """All statements of the task."""
        steps = min(_STEPS, _tile_rows(self.isa, self.spec))
        self.steps = min(steps, max(1, self.length)) if isinstance(self.length, int) else steps
        self.acc = Acc(max(self.steps, self.rows, 2) * self.gates, self.lanes)
        size = self.rows * self.width
        # Gates of the input for every row and step, then two copies of the hidden state.
        self.projected = scratch(self.rows * self.length * self.gates * self.width)
        self.h = scratch(2 * size)
        self.c = scratch(size)
        self.extra = scratch(2 * size) if self._two_passes else None
        self.sums = scratch(self.rows * self.gates * self.lanes)
        self._load_state()
        self._project()
        with serial(self.length) as step:
            before = let(floormod(step, 2) * size)
            after = let(size - before)
            self._step(step, before, after)
        self._store_state(let(floormod(self.length, 2) * size))

    @property
    def _two_passes(self) -> bool:
        """A GRU that resets the state before its product needs all reset gates first."""
        return self.spec.kind == "GRU" and not self.spec.linear_before_reset

    # -- places ------------------------------------------------------------------------------------

    def _batch(self, row: Index) -> Index:
        """Batch index of a row; rows past the end repeat the last one."""
        return let(minimum(self.first + row, static(self.spec.batch) - 1))

    def _state_at(self, batch: Index) -> Index:
        spec = self.spec
        if spec.layout == 0:
            return let((self.direction * spec.batch + batch) * spec.hidden)
        return let((batch * spec.directions + self.direction) * spec.hidden)

    def _valid(self, vector: Index) -> Index | None:
        """Lanes of a vector of the hidden state that exist."""
        if self.spec.hidden % self.lanes == 0:
            return None
        return let(minimum(self.spec.hidden - vector * self.lanes, self.lanes))

    def _time(self, step: Index, batch: Index) -> tuple[Index, Expr | None]:
        """Time index of a step, and whether the sequence is that long (None: it is)."""
        length: Index = self.length
        active = None
        if self.args.lengths is not None:
            length = let(tirx.Cast("int64", self.args.lengths.load(batch)))
            active = step < length
        if self.spec.direction == "forward":
            return step, active
        backward = let(length - 1 - step)
        if active is not None:
            backward = let(tirx.Select(active, backward, step))
        if self.spec.direction == "reverse":
            return backward, active
        return let(tirx.Select(self.direction == 1, backward, step)), active

    # -- state -------------------------------------------------------------------------------------

    def _load_state(self) -> None:
        for tensor, buffer in zip(self.args.initial, (self.h, self.c), strict=True):
            with serial(self.rows) as row, serial(self.vectors) as v:
                value = constant(0.0, self.lanes)
                if tensor is not None:
                    at = self._state_at(self._batch(row)) + v * self.lanes
                    value = load(tensor.flat, at, self.lanes, self._valid(v))
                store(buffer, row * self.width + v * self.lanes, value)

    def _store_state(self, last: Index) -> None:
        for tensor, buffer, start in zip(self.args.final, (self.h, self.c), (last, 0), strict=True):
            if tensor is None:
                continue
            with serial(self.rows) as row, serial(self.vectors) as v:
                value = load(buffer, start + row * self.width + v * self.lanes, self.lanes)
                at = self._state_at(self._batch(row)) + v * self.lanes
                store(tensor.flat, at, let(value), self._valid(v))

    # -- input -------------------------------------------------------------------------------------

    def _project(self) -> None:
        """``projected[row, time, vector, gate] = x W + b``."""
        spec, lanes, gates = self.spec, self.lanes, self.gates
        steps = self.steps
        block = gates * lanes
        with serial(self.rows) as row, serial(ceildiv(self.length, steps)) as part:
            batch = self._batch(row)
            times = [let(minimum(part * steps + i, self.length - 1)) for i in range(steps)]
            if spec.layout == 0:
                starts = [let((t * spec.batch + batch) * spec.inputs) for t in times]
            else:
                starts = [let((batch * self.length + t) * spec.inputs) for t in times]
            with serial(self.vectors) as v:
                base = let((self.direction * self.vectors + v) * block)
                tile = RegisterTile.zero(steps, gates, self.acc)
                with serial(spec.inputs) as i:
                    tile.step(
                        self.args.x.flat,
                        [s + i for s in starts],
                        self.args.w.flat,
                        base * spec.inputs + i * block,
                    )
                for n, t in enumerate(times):
                    to = let((row * self.length + t) * gates * self.width + v * block)
                    for g in range(gates):
                        value = tile.at(n, g)
                        bias = self._bias(v, g)
                        store(
                            self.projected,
                            to + g * lanes,
                            value if bias is None else value + bias,
                        )

    def _bias(self, v: Index, gate: int) -> Expr | None:
        if self.args.bias is None:
            return None
        split = self.spec.kind == "GRU" and self.spec.linear_before_reset
        count = 4 if split else self.gates
        at = ((self.direction * self.vectors + v) * count + gate) * self.lanes
        return self.args.bias.load(at, self.lanes)

    # -- time steps --------------------------------------------------------------------------------

    def _step(self, step: Index, before: Index, after: Index) -> None:
        with serial(self.vectors) as v:
            gates = range(2) if self._two_passes else range(self.gates)
            self._state_product(self.h, before, v, gates)
            self._each_row(v, step, before, after, "reset" if self._two_passes else "")
        if self._two_passes:
            with serial(self.vectors) as v:
                self._state_product(self.extra, 0, v, range(2, 3))
                self._each_row(v, step, before, after, "update")

    def _state_product(self, state: Any, start: Index, v: Index, gates: range) -> None:
        """``sums[row, gate] = state R`` for one vector of the hidden state."""
        lanes, depth, count = self.lanes, self.spec.hidden, len(gates)
        block = self.gates * lanes
        base = let((self.direction * self.vectors + v) * depth * block + gates.start * lanes)
        weights = self.args.r.flat
        if self.rows > 1:
            tile = RegisterTile.zero(self.rows, count, self.acc)
            with serial(depth) as k:
                offsets = [start + (row * self.width + k) for row in range(self.rows)]
                tile.step(state, offsets, weights, base + k * block)
        else:
            # One row has too few accumulators to hide the latency: even and odd k have their own.
            for i in range(2 * count):
                self.acc[i] = constant(0.0, lanes)

            def step(k: Index, chain: int) -> None:
                x = let(splat(let(load(state, start + k)), lanes))
                for g in range(count):
                    i = chain * count + g
                    w = load(weights, base + k * block + g * lanes, lanes)
                    self.acc[i] = self.acc[i] + x * w

            with serial(depth // 2) as pair:
                step(pair * 2, 0)
                step(pair * 2 + 1, 1)
            if depth % 2:
                step(depth - 1, 0)
            for g in range(count):
                self.acc[g] = self.acc[g] + self.acc[count + g]
        for row in range(self.rows):
            for g in range(count):
                at = (row * self.gates + gates.start + g) * lanes
                store(self.sums, at, self.acc[row * count + g])

    def _each_row(self, v: Index, step: Index, before: Index, after: Index, phase: str) -> None:
        """The cell for one vector of the hidden state of every row."""
        lanes = self.lanes
        with serial(self.rows) as row:
            batch = self._batch(row)
            time, active = self._time(step, batch)
            place = let(row * self.width + v * lanes)
            to = self._output_at(time, batch, v)

            def compute() -> None:
                cell = self._cell_inputs(v, row, time, before + place, place)
                if phase == "reset":
                    self._reset(cell, place)
                    return
                if phase == "update":
                    z = let(load(self.extra, self.rows * self.width + place, lanes))
                    h, c = CELLS["GRU-update"](cell, z)
                else:
                    h, c = CELLS[self._cell_name](cell, None)
                store(self.h, after + place, h)
                if c is not None:
                    store(self.c, place, c)
                if self.args.y is not None:
                    store(self.args.y.flat, to, h, self._valid(v))

            def hold() -> None:
                if phase == "reset":
                    return
                store(self.h, after + place, let(load(self.h, before + place, lanes)))
                if self.args.y is not None:
                    store(self.args.y.flat, to, constant(0.0, lanes), self._valid(v))

            if active is None:
                compute()
            else:
                branch(active, compute, hold)

    @property
    def _cell_name(self) -> str:
        return self.spec.kind

    def _reset(self, cell: CellInputs, place: Index) -> None:
        """First pass of a GRU: keep the update gate and the state after the reset."""
        z, reset = CELLS["GRU-reset"](cell, None)
        store(self.extra, self.rows * self.width + place, z)
        store(self.extra, place, reset)

    def _output_at(self, time: Index, batch: Index, v: Index) -> Index:
        spec = self.spec
        if spec.layout == 0:
            row = (time * spec.directions + self.direction) * spec.batch + batch
        else:
            row = (batch * self.length + time) * spec.directions + self.direction
        return let(row * spec.hidden + v * self.lanes)

    def _cell_inputs(
        self, v: Index, row: Index, time: Index, h_at: Index, c_at: Index
    ) -> CellInputs:
        lanes, gates = self.lanes, self.gates
        at = let((row * self.length + time) * gates * self.width + v * gates * lanes)
        of = let((self.direction * self.vectors + v) * 3 * lanes)

        def peephole(gate: int) -> Expr | None:
            if self.args.peepholes is None:
                return None
            return self.args.peepholes.load(of + gate * lanes, lanes)

        def read(buffer: Any, start: Index) -> Callable[[int], Expr]:
            return lambda gate: let(load(buffer, start + gate * lanes, lanes))

        return CellInputs(
            of_input=read(self.projected, at),
            of_state=read(self.sums, let(row * gates * lanes)),
            h=let(load(self.h, h_at, lanes)),
            c=let(load(self.c, c_at, lanes)),
            peephole=peephole,
            state_bias=lambda: self._bias(v, 3),
            bias_is_split=self.spec.kind == "GRU" and self.spec.linear_before_reset,
        )
