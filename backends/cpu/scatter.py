"""Copies rows into wider rows.

``y[..., first : first + C] = x[..., C]``. Arguments: ``x``, then ``y`` [..., N], which is an input
that is written over if it holds something already.
"""

from __future__ import annotations

from collections.abc import Sequence

from burnish.backends.cpu.codes import LIMITS
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.tir import (
    Index,
    Kernel,
    ceildiv,
    hold,
    kernel,
    minimum,
    parallel,
    product,
    serial,
)

#: Elements that a task copies at least.
_GRAIN = 16384
#: Elements of 8 bits in the place of a float32.
_BYTES = 4


def scatter(
    isa: Isa, shape: Sequence[Index], n: int, first: int, *, begun: bool, dtype: str = "float32"
) -> Kernel:
    """Build the kernel for ``x`` of ``shape``, rows of ``n`` and their column ``first``.

    Args:
        isa: Instruction set.
        shape: Dimensions of ``x``; the last one is static.
        n: Last dimension of ``y``.
        first: Where the rows go.
        begun: Whether ``y`` holds other columns, which stay.
        dtype: ``float32``, a 16-bit float, ``uint8`` or ``int8``.
    """
    *lead, c = shape
    with kernel("scatter", isa) as k:
        x = k.input("x", shape, dtype)
        y = (k.input if begun else k.output)("y", (*lead, n), dtype)
        rows = product(x.shape[:-1])
        run = max(1, _GRAIN // c)
        lanes = isa.lanes * (_BYTES if dtype in LIMITS else 1)
        whole, tail = divmod(c, lanes)
        with parallel(ceildiv(rows, run)) as task:
            begin = hold(task * run)
            with serial(begin, hold(minimum(begin + run, rows))) as row:
                source, target = hold(row * c), hold(row * n + first)
                with serial(whole) as v:
                    value = x.load(source + v * lanes, lanes)
                    y.store(target + v * lanes, value)
                with serial(tail) as i:
                    at = whole * lanes + i
                    y.store(target + at, x.load(source + at))
    return k.result
