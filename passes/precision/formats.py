"""The 16-bit types: what they hold, and what they do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import ml_dtypes


@dataclass(frozen=True)
class Format:
    """A 16-bit type that tensors can be stored in.

    Attributes:
        precision: What ``--precision`` calls it.
        dtype: Element type.
        largest: Largest finite number.
        smallest: Smallest number that has all bits; below it they go one by one.
        bits: Significant bits, the implicit one included.
        short: What wide results do in it, for messages.
        lacking: Operators that move elements of other types, and in ONNX none of this one.
    """

    precision: str
    dtype: str
    largest: float
    smallest: float
    bits: int
    short: str
    lacking: frozenset[str] = frozenset()


def _format(precision: str, dtype: str, short: str, *lacking: str) -> Format:
    # ml_dtypes knows float16 as well as bfloat16, numpy itself only the former.
    limits = ml_dtypes.finfo(dtype)
    return Format(
        precision,
        dtype,
        float(limits.max),
        float(limits.smallest_normal),
        int(limits.nmant) + 1,
        short,
        frozenset(lacking),
    )


#: By what ``--precision`` calls them.
FORMATS: Final = {
    row.precision: row
    for row in (
        _format("fp16", "float16", "may leave the range of float16"),
        _format(
            "bf16",
            "bfloat16",
            "needs more than the 8 bits of bfloat16",
            *("Compress", "ReverseSequence"),
        ),
    )
}


def format_of(dtype: str) -> Format:
    """The format of an element type; raises KeyError when there is none."""
    return {row.dtype: row for row in FORMATS.values()}[dtype]
