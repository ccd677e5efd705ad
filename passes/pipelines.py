"""Which passes run, in which order, at each optimization level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from burnish.errors import UsageError
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.canonicalize import Canonicalize
from burnish.passes.common_subexpressions import CommonSubexpressions
from burnish.passes.dead_code import DeadCode
from burnish.passes.fold_constants import FoldConstants
from burnish.passes.fusion import FuseElementwise, fusions
from burnish.passes.fusion.conv_norm import FuseConvNorm
from burnish.passes.layout import layouts
from burnish.passes.precision import FORMATS, Measure, MixedPrecision
from burnish.passes.quantization.attention import IntegerAttention
from burnish.passes.quantization.batch_products import IntegerBatchProducts
from burnish.passes.quantization.half import WidenQuantized
from burnish.passes.quantization.imported import QuantizedForms, WeightForms
from burnish.passes.quantization.integer import IntegerProducts, IntegerResults
from burnish.passes.quantization.leftovers import QuantizedLeftovers
from burnish.passes.quantization.pools import IntegerPools
from burnish.passes.quantization.sums import IntegerSums
from burnish.passes.quantization.transposed import IntegerTransposed
from burnish.passes.quantization.weight_only import ExpandWeightOnly, WeightOnlyProducts
from burnish.passes.shapes import EliminateShapes
from burnish.passes.simplify import Simplify

#: Levels: 0 canonical forms only, 1 without composites, 2 fusions, 3 layouts as well.
LEVELS = (0, 1, 2, 3)
#: From so many rows on products are bound by arithmetic, not by reading their weights.
_MANY_ROWS = 16


def pipeline(
    level: int = 3,
    *,
    max_fold_growth: int | None = None,
    precision: str = "fp32",
    high: Mapping[str, str] | None = None,
    measure: Measure | None = None,
    explicit: bool = False,
    integers: bool = False,
    weight_only: bool = False,
    short_products: bool = False,
) -> list[Pass | Fixpoint]:
    """The passes of an optimization level.

    Args:
        level: 0 brings the graph to the form that the lowering needs, 1 adds everything that does
            not make composites, 2 fuses, 3 also chooses layouts.
        max_fold_growth: By how many bytes folding may make the model larger.
        precision: ``fp32``, or ``fp16`` or ``bf16`` for storage in 16 bits.
        high: Original names of nodes that stay in fp32 nevertheless, with the reasons.
        measure: Measures what 16 bits would have to hold; None decides by the operators alone.
        explicit: Whether the result is for other runtimes: Casts say what computes in fp32, and
            quantized weights stay as they are stored.
        integers: Whether products of quantized tensors compute in integers, from level 2 on.
        weight_only: Whether products read weights in 8 or 4 bits as they are, from level 2 on.
        short_products: Whether 16 bits are multiplied as such, faster than float32.

    Raises:
        UsageError: There is no such level.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no optimization level {level}", hint=f"the levels are {LEVELS}")
    growth = FoldConstants.max_growth_bytes if max_fold_growth is None else max_fold_growth
    fold = FoldConstants(growth, dequantize=not explicit)
    lower: list[Pass | Fixpoint] = []
    if precision != "fp32":
        lower.append(MixedPrecision(FORMATS[precision].dtype, high or {}, explicit, measure))
    if level == 0:
        return [DeadCode(), Canonicalize(), *lower]
    passes: list[Pass | Fixpoint] = [DeadCode()]
    integers = integers and level >= 2
    if level >= 2:
        passes += _stored_in_8_bits(fold, integers, weight_only)
    if not weight_only:
        passes.append(ExpandWeightOnly())
    elif lower and short_products:
        passes.append(ExpandWeightOnly(_MANY_ROWS))
    passes.append(clean_up(fold))
    if level >= 2:
        passes += _composites(integers)
    if level >= 3:
        passes += layouts()
    if level >= 2:
        # Fusions and layouts leave reshapes of reshapes and constants to fold.
        passes.append(clean_up(fold))
    elif lower:
        # What a normalization subtracts must not be rounded before.
        passes += [FuseConvNorm(), clean_up(fold)]
    # After the composites, which decide what lies in memory; before the groups, which take Casts.
    passes += lower
    if level >= 2:
        # Last: its groups are closed to every other pass.
        passes += [Simplify(late=True), FuseElementwise()]
    return passes


def _stored_in_8_bits(
    fold: FoldConstants, integers: bool, weight_only: bool
) -> list[Pass | Fixpoint]:
    """What reads tensors as they are stored; before folding, which would make float32 of them."""
    passes: list[Pass | Fixpoint] = []
    if integers or weight_only:
        folded = replace(fold, dequantize=False)
        passes.append(Fixpoint("weights", (Canonicalize(), WeightForms(), folded)))
    if integers:
        passes += [QuantizedForms(), WidenQuantized(), Canonicalize()]
        passes += [IntegerProducts(), IntegerTransposed(), IntegerSums()]
    if weight_only:
        passes.append(WeightOnlyProducts())
    if integers:
        passes.append(QuantizedLeftovers())
    return passes


def _composites(integers: bool) -> list[Pass | Fixpoint]:
    """The fusions, around them those of quantized tensors."""
    if not integers:
        return [*fusions()]
    return [
        IntegerAttention(),
        IntegerBatchProducts(),
        *fusions(),
        # After the normalizations, which begin with a mean.
        IntegerPools(),
        IntegerResults(),
        QuantizedLeftovers(late=True),
    ]


def clean_up(fold: FoldConstants) -> Fixpoint:
    """Bring the graph to canonical form and remove what need not be computed at run time."""
    return Fixpoint(
        "clean-up",
        (
            # Views and no-ops first: shape inference sees through fewer operators then.
            Canonicalize(),
            # Before folding: what only computes shapes need not be evaluated.
            EliminateShapes(),
            fold,
            Simplify(),
            CommonSubexpressions(),
        ),
    )
