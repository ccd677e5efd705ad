"""Which passes run, in which order, at each optimization level."""

from __future__ import annotations

from burnish.errors import UsageError
from burnish.passes.base import Fixpoint, Pass
from burnish.passes.canonicalize import Canonicalize
from burnish.passes.common_subexpressions import CommonSubexpressions
from burnish.passes.dead_code import DeadCode
from burnish.passes.fold_constants import FoldConstants
from burnish.passes.shapes import EliminateShapes
from burnish.passes.simplify import Simplify

#: Levels: 0 canonical forms only, 1 without fusions, 2 everything.
LEVELS = (0, 1, 2)


def pipeline(level: int = 2, *, max_fold_growth: int | None = None) -> list[Pass | Fixpoint]:
    """The passes of an optimization level.

    Args:
        level: 0 brings the graph to the form that the lowering needs, 1 adds everything that does
            not make composites, 2 everything.
        max_fold_growth: By how many bytes folding may make the model larger.

    Raises:
        UsageError: There is no such level.
    """
    if level not in LEVELS:
        raise UsageError(f"there is no optimization level {level}", hint=f"the levels are {LEVELS}")
    fold = FoldConstants() if max_fold_growth is None else FoldConstants(max_fold_growth)
    if level == 0:
        return [DeadCode(), Canonicalize()]
    return [DeadCode(), clean_up(fold)]


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
