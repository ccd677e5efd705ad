"""Where a kernel stores its result, if not in a tensor of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.epilogue import Epilogue
from burnish.backends.cpu.narrow import Narrow
from burnish.backends.cpu.tir import Index, KernelBuilder, Tensor, i64
from burnish.backends.cpu.vmath import LONG
from burnish.ir.postops import PostOp
from burnish.ir.types import BY_NAME


@dataclass(frozen=True)
class Place:
    """Some channels of a tensor that has more.

    Attributes:
        channels: Channels of the tensor.
        first: The first of them that belongs to the place.
        begun: Whether others hold something already: the tensor is the last input then.
    """

    channels: int
    first: int
    begun: bool = False


def placeable(postops: Sequence[PostOp]) -> bool:
    """Whether the result of a kernel with these post-ops can go to a :class:`Place`."""
    # Steps behind a long one find operands of the result's shape where the result is.
    long = [i for i, post in enumerate(postops) if post.op in LONG]
    shaped = ("full", "quantized")
    return not long or all(post.operand not in shaped for post in postops[long[0] :])


def result_of(
    k: KernelBuilder,
    epilogue: Epilogue,
    shape: Sequence[Index],
    place: Place | None = None,
    *,
    over: bool = False,
) -> Tensor:
    """The tensor that a kernel stores its result of ``shape`` to; the last argument but for inputs.

    Args:
        k: The kernel.
        epilogue: Its post-ops.
        shape: Shape of the result.
        place: The result goes there: rows are ``place.channels`` elements apart.
        over: The result goes over the post-ops' operand (:attr:`Epilogue.overwritten`).
    """
    return epilogue.overwritten if over else placed(k, shape, place)


def placed(
    k: KernelBuilder, shape: Sequence[Index], place: Place | None, dtype: str | None = None
) -> Tensor:
    """:func:`result_of` without post-ops, of elements of ``dtype``."""
    if place is None:
        return k.output("y", shape, dtype)
    declare = k.input if place.begun else k.output
    return _behind(declare("y", (*shape[:-1], place.channels), dtype), place.first)


def _behind(tensor: Tensor, offset: int) -> Tensor:
    """The tensor from a flat offset on, for reading and writing by flat offsets."""
    if offset == 0:
        return tensor
    narrow = tensor.flat if isinstance(tensor.flat, Narrow) else None
    whole = tensor.flat if narrow is None else narrow.buffer
    start = T.Bind(tirx.address_of(whole[i64(offset)]))
    dtype = str(whole.dtype)
    size, align = i64(tensor.size - offset), BY_NAME[dtype].bits // 8
    flat = T.decl_buffer((size,), dtype, data=start, align=align)
    return replace(tensor, flat=flat if narrow is None else narrow.over(flat))
