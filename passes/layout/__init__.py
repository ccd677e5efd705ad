"""Layout: channels last for convolutions, and where transposes go."""

from __future__ import annotations

from burnish.passes.base import Pass
from burnish.passes.fusion.epilogue import FuseEpilogues
from burnish.passes.layout.nhwc import ChannelsLast, ViewTransposes


def layouts() -> list[Pass]:
    """The layout passes, in order; they expect a graph with its fusions done."""
    # Operators that stood behind a transpose may follow their product now.
    return [ChannelsLast(), FuseEpilogues(), ViewTransposes()]


__all__ = ["layouts"]
