"""What the cost tables of tactics share."""

from __future__ import annotations

from burnish.ir import Dim

#: Taken for a size that is not known when a model is compiled.
NOMINAL_SIZE = 64


def nominal(dim: Dim) -> int:
    """A dim, or the size that is taken for one that is not known."""
    return dim if isinstance(dim, int) else NOMINAL_SIZE
