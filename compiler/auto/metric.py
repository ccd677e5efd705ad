"""What a model loses: the drop of a metric against the model in fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from burnish.calibration.script import load_function, running
from burnish.check.metrics import cosine
from burnish.check.tolerances import SCALE_FLOOR
from burnish.errors import UsageError
from burnish.precision.options import Budget

#: Arrays by name.
Arrays: TypeAlias = Mapping[str, NDArray[Any]]
#: What one call loses: outputs, the reference's outputs, inputs.
Drop: TypeAlias = "Callable[[Arrays, Arrays, Arrays], float]"

#: Stands for a bound of nothing where shares of it are taken.
_LEAST = 1e-12


@dataclass(frozen=True)
class Loss:
    """What a way to assign precisions loses.

    Attributes:
        drop: Mean drop of the metric over samples and floating-point outputs.
        worst: The largest drop of a sample.
        error: Largest error of any element, in units of its output's root mean square.
    """

    drop: float
    worst: float
    error: float

    def within(self, budget: Budget, share: float = 1.0) -> bool:
        """Whether a share of the budget covers it."""
        # NaN is within no bound.
        allowed = self.drop <= budget.bound * share
        return allowed and (budget.atol is None or self.error <= budget.atol * share)

    def spent(self, budget: Budget) -> float:
        """The share of the budget that it takes, of whichever bound it takes more of."""
        bounds = ((self.drop, budget.bound), (self.error, budget.atol))
        return max(
            loss / max(bound, _LEAST)
            for loss, bound in bounds
            if bound is not None and bound < float("inf")
        )


class Metric:
    """Measures drops as a budget defines them.

    Raises:
        InputFileError: The metric's script is missing.
        UsageError: It has no such function.
    """

    def __init__(self, budget: Budget) -> None:
        self._drop = _BUILT_IN.get(budget.metric) or _scripted(budget.metric)

    def loss(
        self,
        found: Sequence[Arrays],
        wanted: Sequence[Arrays],
        inputs: Sequence[Arrays],
    ) -> Loss:
        """What is lost on some samples.

        Args:
            found: Outputs by name, one mapping for each sample.
            wanted: The same of the reference.
            inputs: Inputs of the samples.

        Raises:
            UsageError: A function of the user's failed.
        """
        drops = [self._drop(f, w, x) for f, w, x in zip(found, wanted, inputs, strict=True)]
        errors = [_error(f, w) for f, w in zip(found, wanted, strict=True)]
        return Loss(float(np.mean(drops)), float(np.max(drops)), float(np.max(errors)))

    def check(self, wanted: Sequence[Arrays], inputs: Sequence[Arrays], budget: Budget) -> None:
        """Refuse, before minutes are spent, what cannot judge the reference's own outputs.

        Raises:
            UsageError: They are not within the budget, or a function of the user's failed.
        """
        loss = self.loss(wanted, wanted, inputs)
        if not loss.within(budget):
            raise UsageError(
                f"the model's own outputs are not within the budget: {budget.metric} drops by "
                f"{loss.drop:.3g}",
                hint="a score has to be a finite number; outputs that are none need a metric of "
                "script.py:function",
            )


def _floats(found: Arrays, wanted: Arrays) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """The outputs that a metric is about: numbers, or all of them where there are none."""
    pairs, floats = [], []
    for name, value in wanted.items():
        reference = np.asarray(value)
        if reference.dtype.kind not in "fiub" or not reference.size:
            continue
        pair = np.asarray(found[name], np.float64), np.asarray(reference, np.float64)
        pairs.append(pair)
        if reference.dtype.kind == "f":
            floats.append(pair)
    return floats or pairs


def _cosine(found: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    # cosine() takes what is no number for the opposite.
    return _worst(
        1.0 - cosine(a, b) if np.isfinite(a).all() or not np.isfinite(b).all() else np.inf
        for a, b in _floats(found, wanted)
    )


def _l2(found: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    return _worst(
        float(np.linalg.norm(a - b) / max(np.linalg.norm(b), SCALE_FLOOR))
        for a, b in _floats(found, wanted)
    )


def _top1(found: Arrays, wanted: Arrays, inputs: Arrays) -> float:
    shares = []
    for a, b in _floats(found, wanted):
        rows, expected = np.atleast_2d(a), np.atleast_2d(b)
        same = rows.argmax(-1) == expected.argmax(-1)
        shares.append(1.0 - float(np.mean(same & np.isfinite(rows).all(-1))))
    return _worst(shares)


_BUILT_IN: dict[str, Drop] = {"cosine": _cosine, "l2": _l2, "top1": _top1}


def _worst(drops: Any) -> float:
    """The largest; infinite where one is no number, or nothing can be compared."""
    values = [d if np.isfinite(d) else float("inf") for d in drops]
    return max(values, default=float("inf"))


def _error(found: Arrays, wanted: Arrays) -> float:
    worst = 0.0
    for a, b in _floats(found, wanted):
        scale = max(float(np.sqrt(np.mean(b**2))), SCALE_FLOOR)
        error = float(np.max(np.abs(a - b))) / scale
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst


def _scripted(spelling: str) -> Drop:
    """The drop of a score that a function of the user's gives."""
    script, _, name = spelling.rpartition(":")
    function = load_function(script, name)

    def score(outputs: Arrays, wanted: Arrays, inputs: Arrays) -> float:
        with running(script, name):
            return float(function(dict(outputs), dict(wanted), dict(inputs)))

    def drop(found: Arrays, wanted: Arrays, inputs: Arrays) -> float:
        return score(wanted, wanted, inputs) - score(found, wanted, inputs)

    return drop
