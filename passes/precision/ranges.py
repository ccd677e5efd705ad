"""What values were measured to hold, and whether a 16-bit type can hold that."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np

from burnish.ir import Graph, Value
from burnish.passes.precision.formats import Format

#: How many times larger than all that was measured the numbers of other inputs may be.
MARGIN: Final = 4.0
#: Largest error of an argument of :data:`FUNCTIONS`: exp(x + 1/16) is 6 % more than exp(x).
ERROR: Final = 2.0**-4
#: Functions whose results tell arguments apart by their absolute error.
FUNCTIONS: Final = frozenset(
    {"Cos", "Cosh", "Exp", "LogSoftmax", "ReduceLogSumExp", "Sin", "Sinh", "Softmax", "Tan"}
)


@dataclass
class Extent:
    """The finite numbers of a value on all samples.

    Attributes:
        low: Smallest, +inf before there is one.
        high: Largest, -inf before there is one.
    """

    low: float = math.inf
    high: float = -math.inf

    def add(self, array: Any) -> None:
        """Take an array of any shape in."""
        low, high = float(array.min(initial=math.inf)), float(array.max(initial=-math.inf))
        if array.size and not (math.isfinite(low) and math.isfinite(high)):
            finite = array[np.isfinite(array)]
            low = float(finite.min(initial=math.inf))
            high = float(finite.max(initial=-math.inf))
        self.low, self.high = min(self.low, low), max(self.high, high)

    @property
    def largest(self) -> float:
        """Largest magnitude; 0 if nothing was measured."""
        return max(-self.low, self.high, 0.0)


#: Measures values of a graph as it stands; what it does not return was not measured.
Measure: TypeAlias = Callable[[Graph, Sequence[Value]], Mapping[str, Extent]]


class Ranges:
    """Judges values by their extents.

    Args:
        stored: The 16-bit type.
        extents: By name of the value.
    """

    def __init__(self, stored: Format, extents: Mapping[str, Extent]) -> None:
        self.stored = stored
        self.extents = extents

    def beyond(self, value: Value, *, masks: bool) -> str:
        """Why a value does not fit into the type; empty if it does or was not measured.

        Args:
            value: The value.
            masks: Whether its lowest numbers only have to be low.
        """
        found = self.extents.get(value.name)
        if found is None:
            return ""
        dtype, largest = self.stored.dtype, max(found.high, 0.0) if masks else found.largest
        name = value.name
        if largest * MARGIN > self.stored.largest:
            return f"too near the limit of {dtype} ({name} was measured to reach {largest:.4g})"
        if not masks and 0 < largest < self.stored.smallest * MARGIN:
            return f"too small for all bits of {dtype} ({name} was measured below {largest:.4g})"
        return ""

    def blurred(self, value: Value, function: str, *, masks: bool) -> str:
        """Why a function should not read a rounded value; empty if it may, or nothing is known."""
        found = self.extents.get(value.name) or Extent()
        largest = max(found.high, 0.0) if masks else found.largest
        if largest * 2.0**-self.stored.bits <= ERROR:
            return ""
        return (
            f"{function} needs more than the {self.stored.bits} bits of {self.stored.dtype} "
            f"(it reads numbers up to {largest:.4g})"
        )

    def exact(self, value: Value) -> bool:
        """Whether a value of integers was measured to be exact in the type."""
        found = self.extents.get(value.name)
        return found is not None and found.largest <= 2.0**self.stored.bits
