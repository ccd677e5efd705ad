"""Pictures of text, drawn with a 5x7 font: what the OCR models were trained to see."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float32]

# Five columns a glyph, the lowest bit on top.
_GLYPHS = {
    "0": "3E5149453E", "1": "00427F4000", "2": "7249494946", "3": "2141494D33",
    "4": "1814127F10", "5": "2745454539", "6": "3C4A494931", "7": "4121110907",
    "8": "3649494936", "9": "464949291E", "A": "7C1211127C", "B": "7F49494936",
    "C": "3E41414122", "D": "7F4141413E", "E": "7F49494941", "F": "7F09090901",
    "G": "3E41415173", "H": "7F0808087F", "I": "00417F4100", "J": "2040413F01",
    "K": "7F08142241", "L": "7F40404040", "M": "7F021C027F", "N": "7F0408107F",
    "O": "3E4141413E", "P": "7F09090906", "Q": "3E4151215E", "R": "7F09192946",
    "S": "2649494932", "T": "03017F0103", "U": "3F4040403F", "V": "1F2040201F",
    "W": "3F4038403F", "X": "6314081463", "Y": "0304780403", "Z": "6159494D43",
    " ": "0000000000",
}  # fmt: skip


def ink(text: str, scale: int) -> Picture:
    """One line of text as ink (1) on nothing (0), ``7 * scale`` rows high."""
    columns = np.concatenate(
        [np.frombuffer(bytes.fromhex(_GLYPHS[c] + "00"), np.uint8) for c in text]
    )
    rows = (columns[None, :] >> np.arange(7, dtype=np.uint8)[:, None]) & 1
    return np.kron(rows, np.ones((scale, scale))).astype(np.float32)


def page(height: int, width: int, lines: list[tuple[int, int, int, str]]) -> Picture:
    """Dark text on light paper, [3, height, width] within ±1.

    Args:
        height: Rows.
        width: Columns.
        lines: (top, left, scale, text) of each line; what does not fit is cut off.
    """
    paper = np.zeros((height, width), np.float32)
    for top, left, scale, text in lines:
        line = ink(text, scale)[: height - top, : width - left]
        paper[top : top + line.shape[0], left : left + line.shape[1]] = line
    # Soft edges, as a lens would make them.
    edged = np.pad(paper, 1, mode="edge")
    soft = sum(edged[i : i + height, j : j + width] for i in range(3) for j in range(3)) / 9
    grey = 0.85 - 1.6 * soft
    return np.stack([grey, grey * 0.97, grey * 0.94]).astype(np.float32)
