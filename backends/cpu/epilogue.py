"""Post-operations on the result of a kernel, before or right after it is stored.

Short ones are applied to each accumulator. From the first long one (:data:`vmath.LONG`) on they
run in a loop over the stored result while it is in the first-level cache: unrolled for each
register of the tile they would take more time to compile than the rest of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from burnish.backends.cpu import vmath
from burnish.backends.cpu.codes import coded
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Expr,
    Index,
    KernelBuilder,
    Tensor,
    lanes_of,
    load,
    splat,
)
from burnish.errors import CompileError
from burnish.ir.postops import PostOp

F32Array = npt.NDArray[np.float32]


def padded_channels(n: int, isa: Isa) -> int:
    """Elements of a ``channel`` operand of ``n`` channels as kernels read it.

    Whole vectors, and one more: the last vector of a group of channels may begin anywhere.
    """
    return (-(-n // isa.lanes) + 1) * isa.lanes


def pack_channel(values: npt.ArrayLike, isa: Isa) -> F32Array:
    """A ``channel`` operand as kernels read it: 1-D float32, padded with 0."""
    flat = np.asarray(values, dtype=np.float32).reshape(-1)
    padded = np.zeros(padded_channels(flat.size, isa), np.float32)
    padded[: flat.size] = flat
    return padded


def pack_scalar(value: npt.ArrayLike) -> F32Array:
    """A ``scalar`` operand as kernels read it: float32 of shape (1,)."""
    return np.asarray(value, dtype=np.float32).reshape(1)


_BINARY = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a / b,
    "Max": lambda a, b: tirx.Max(b, a),
    "Min": lambda a, b: tirx.Min(b, a),
}


def overwritable(postops: Sequence[PostOp]) -> int | None:
    """The post-op whose operand's memory may take the result; None if there is none.

    Each of its elements is read right before the result at the same place is stored. Behind a long
    step that is not so: there, what is stored first is not the result yet.
    """
    for i, post in enumerate(postops):
        if post.op in vmath.LONG:
            return None
        if post.operand == "full":
            return i
    return None


@dataclass(frozen=True)
class Epilogue:
    """The post-operations of one kernel with their operands.

    Attributes:
        steps: Each post-op with its operand tensor, None for a unary one.
        cut: Number of leading steps that are applied to the accumulators.
    """

    steps: tuple[tuple[PostOp, Tensor | None], ...]
    cut: int

    @classmethod
    def declare(
        cls,
        k: KernelBuilder,
        postops: Sequence[PostOp],
        shape: Sequence[Index],
        codes: Sequence[str] = (),
        channels: int | None = None,
    ) -> Epilogue:
        """Declare the operands as the next inputs of ``k``, in the order of the post-ops.

        A ``full`` operand has the result's ``shape``, a ``channel`` operand is a
        :func:`pack_channel` of the last dimension, a ``scalar`` operand has shape (1,). Each
        ``quantized`` operand has the result's shape and the next type of ``codes``. ``channels``
        is the size of ``channel`` operands that are packed otherwise.
        """
        count = padded_channels(shape[-1], k.isa) if channels is None else channels
        shapes = {"full": tuple(shape), "channel": (count,), "scalar": (1,)}
        # Constants are packed in float32 whatever the tensors are stored in.
        dtypes = {"full": None, "channel": "float32", "scalar": "float32"}
        types = iter(codes)

        def operand(i: int, post: PostOp) -> Tensor | None:
            if post.operand == "quantized":
                tensor = k.input(f"operand{i}", tuple(shape), next(types))
                return coded(tensor, post.params[0], int(post.params[1]))
            if not post.operand:
                return None
            return k.input(f"operand{i}", shapes[post.operand], dtypes[post.operand])

        steps = tuple((p, operand(i, p)) for i, p in enumerate(postops))
        long = [i for i, p in enumerate(postops) if p.op in vmath.LONG]
        return cls(steps, long[0] if long else len(steps))

    @property
    def overwritten(self) -> Tensor:
        """The operand that the result is written over; see :func:`overwritable`."""
        place = overwritable([post for post, _ in self.steps])
        operand = None if place is None else self.steps[place][1]
        if operand is None:
            raise CompileError("the result cannot be written over an operand of its post-ops")
        return operand

    @property
    def deferred(self) -> bool:
        """Whether steps are left for :meth:`finish`."""
        return self.cut < len(self.steps)

    def start(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """Apply the short steps to ``value``, which will be stored at flat ``offset``."""
        return self._apply(self.steps[: self.cut], value, offset, channel, valid)

    def store_row(
        self,
        y: Tensor,
        values: Sequence[Expr],
        offset: Index,
        place: Index,
        channel: Index,
        tail: int | None,
    ) -> None:
        """Apply the short steps to neighbouring vectors and store them.

        Args:
            y: Where they go.
            values: The vectors.
            offset: Where the first one stands among operands of the result's shape.
            place: Where it goes in ``y``.
            channel: Its channel.
            tail: Valid lanes of the last vector; None if all are.
        """
        lanes = lanes_of(values[0])
        for v, value in enumerate(values):
            valid = tail if v == len(values) - 1 else None
            at = v * lanes
            y.store(place + at, self.start(value, offset + at, channel + at, valid), valid)

    def finish(self, value: Expr, offset: Index, channel: Index, valid: int | None = None) -> Expr:
        """Apply the steps from the first long one on."""
        return self._apply(self.steps[self.cut :], value, offset, channel, valid)

    @staticmethod
    def _apply(
        steps: Sequence[tuple[PostOp, Tensor | None]],
        value: Expr,
        offset: Index,
        channel: Index,
        valid: int | None,
    ) -> Expr:
        lanes = lanes_of(value)
        for post, operand in steps:
            if operand is None:
                value = vmath.UNARY[post.op](value, *post.params)
                continue
            if post.operand == "channel":
                other = operand.load(channel, lanes)
            elif post.operand == "scalar":
                other = splat(operand.load(0), lanes)
            else:
                other = load(operand.flat, offset, lanes, valid)
            value = _BINARY[post.op](value, other)
        return value
