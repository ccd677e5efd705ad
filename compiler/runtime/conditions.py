"""The sizes of a call against what the model demands of them.

Kernels trust the sizes that were inferred from the model; what inference had to assume is checked
here, once for each new set of shapes, so that no kernel ever reads outside of its operands.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from burnish.artifact.manifest import Condition
from burnish.errors import InvalidInputError

_NAME = re.compile(r"[A-Za-z_][\w.]*")


def check_conditions(conditions: Sequence[Condition], sizes: Mapping[str, int]) -> None:
    """Check sizes.

    Args:
        conditions: What the model demands.
        sizes: By the text of the dim in an input's shape: a name, or an expression of names.

    Raises:
        InvalidInputError: A condition does not hold.
    """
    names = {text: size for text, size in sizes.items() if _NAME.fullmatch(text)}
    if not conditions and len(names) == len(sizes):
        return
    from burnish.ir.dims import evaluate, parse_dim

    def number(text: str) -> int:
        return evaluate(parse_dim(text), names)

    for text, size in sizes.items():
        if text not in names and number(text) != size:
            raise _invalid(f"{text} must be {number(text)}, got {size}", names, None)
    for condition in conditions:
        left, right = number(condition.left), number(condition.right)
        if not _holds(condition.kind, left, right):
            demand = _demand(condition)
            raise _invalid(
                f"{demand} must hold, but these are {left} and {right}", names, condition
            )


def _holds(kind: str, left: int, right: int) -> bool:
    if kind == "at_least":
        return left >= right
    return left == right or (kind == "broadcast" and 1 in (left, right))


def _demand(condition: Condition) -> str:
    sign = ">=" if condition.kind == "at_least" else "=="
    alternative = " (or one of them 1)" if condition.kind == "broadcast" else ""
    return f"{condition.left} {sign} {condition.right}{alternative}"


def _invalid(
    message: str, sizes: Mapping[str, int], condition: Condition | None
) -> InvalidInputError:
    given = ", ".join(f"{name} = {size}" for name, size in sizes.items())
    return InvalidInputError(
        f"the input sizes do not fit the model: {message}",
        at=condition.node if condition is not None else None,
        hint=f"the sizes given are {given}",
    )
