"""Scores for ``--metric tests/models/kept.py:text``: the share of decisions that stay the same.

Imports nothing of the package: the compiler runs it as a script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]

#: Above, a pixel is text.
TEXT = 0.3
#: Above, a note sounds.
NOTE = 0.5


def marks(found: NDArray[Any], wanted: NDArray[Any], threshold: float) -> NDArray[Any]:
    """Whether both lie above, for all numbers of which one does: most of a page is no text."""
    now, before = found > threshold, wanted > threshold
    same: NDArray[Any] = (now & before)[now | before]
    return same


def text(outputs: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    """The share of a page's pixels of text."""
    return _share(outputs, wanted, TEXT)


def notes(outputs: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    """The share of a clip's notes."""
    return _share(outputs, wanted, NOTE)


def sentence(outputs: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    """The cosine similarity of the mean over a sentence's tokens with what it was."""
    now, before = (next(iter(arrays.values()))[0].mean(axis=0) for arrays in (outputs, wanted))
    return float(now @ before / np.sqrt((now @ now) * (before @ before)))


def _share(outputs: Arrays, wanted: Arrays, threshold: float) -> float:
    first = next(iter(wanted))
    same = marks(outputs[first], wanted[first], threshold)
    return float(same.mean()) if same.size else 1.0
