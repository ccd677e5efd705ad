"""Sizes as people write them: ``2 MB``, ``1.5 GiB``, ``300000``."""

from __future__ import annotations

import re

_UNITS: dict[str, int] = {
    "B": 1,
    **{f"{letter}B": 1000 ** (i + 1) for i, letter in enumerate("KMGT")},
    **{f"{letter}iB": 1024 ** (i + 1) for i, letter in enumerate("KMGT")},
}
_SPELLINGS = {name.lower(): size for name, size in _UNITS.items()}
_FORM = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int) -> int:
    """Bytes of a size: KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB of 1024.

    Raises:
        ValueError: It is not a size; the message says what is.
    """
    if isinstance(text, int):
        size: float = text
    else:
        match = _FORM.fullmatch(text)
        unit = _SPELLINGS.get((match[2] or "B").lower()) if match else None
        if match is None or unit is None:
            raise ValueError(f"not a size: {text!r}; write bytes, '500 KB', '2 MB', '1.5 GiB'")
        size = float(match[1]) * unit
    if size <= 0:
        raise ValueError(f"a size must be positive: {text!r}")
    return round(size)


def format_size(size: float) -> str:
    """A size for people, in powers of 1000: ``2.04 MB``."""
    for name in ("B", "KB", "MB"):
        if abs(size) < 1000:
            return f"{size:.3g} {name}" if name != "B" else f"{size:.0f} B"
        size /= 1000
    return f"{size:.3g} GB"
