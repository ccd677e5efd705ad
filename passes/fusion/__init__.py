"""Fusions: what exporters spell out becomes one operator or composite."""

from __future__ import annotations

from burnish.passes.base import Pass
from burnish.passes.fusion.activations import FuseActivations
from burnish.passes.fusion.attention import FuseAttentions
from burnish.passes.fusion.composites import MakeComposites
from burnish.passes.fusion.conv_norm import FuseConvNorm
from burnish.passes.fusion.elementwise import FuseElementwise
from burnish.passes.fusion.epilogue import FuseEpilogues
from burnish.passes.fusion.group_norm import FuseGroupNormalization
from burnish.passes.fusion.lookup import FuseLookups
from burnish.passes.fusion.normalization import FuseAddNormalization, FuseNormalization
from burnish.passes.fusion.projections import MergeQKV
from burnish.passes.simplify import Simplify


def fusions() -> list[Pass]:
    """The fusions that need no layout, in order; they expect a clean graph."""
    return [
        FuseConvNorm(),
        FuseActivations(),
        # Factors that the activations left meet the factors after them.
        Simplify(),
        FuseLookups(),
        FuseNormalization(),
        FuseGroupNormalization(),
        # Attention before products become composites: it starts from plain MatMul.
        FuseAttentions(),
        # Residual sums before epilogues, which would take them.
        FuseAddNormalization(),
        MakeComposites(),
        FuseEpilogues(),
        MergeQKV(),
    ]


__all__ = ["FuseElementwise", "FuseEpilogues", "fusions"]
