"""Inputs of the check: functions like this one load a few real samples of a model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 48, 192
# Letters L, T and F of a 5x7 font; each byte is a column, its lowest bit on top.
LETTERS = {"L": "7F40404040", "T": "01017F0101", "F": "7F09090901"}


def lines_of_text() -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield three samples: one word each, upright and upside down, [2, 3, 48, 192] within ±1."""
    for word in ("LTFTL", "FTLLF", "TTFLT"):
        upright = _picture(word)
        yield {"x": np.stack([upright, upright[:, ::-1, ::-1]])}


def _picture(word: str, scale: int = 4) -> NDArray[np.float32]:
    columns = np.frombuffer(bytes.fromhex("00".join(LETTERS[c] for c in word)), np.uint8)
    letters = (columns >> np.arange(7, dtype=np.uint8)[:, None]) & 1
    ink = np.kron(letters, np.ones((scale, scale)))
    paper = np.full((HEIGHT, WIDTH), 0.8)
    top = (HEIGHT - ink.shape[0]) // 2
    paper[top : top + ink.shape[0], 4 : 4 + ink.shape[1]] -= 1.5 * ink
    return np.stack([paper] * 3).astype(np.float32)
