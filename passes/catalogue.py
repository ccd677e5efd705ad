"""The pass catalogue ``passes/README.md``, made of docstrings.

``python -m burnish.passes.catalogue > passes/README.md`` writes it anew; a test checks that it is
current.
"""

from __future__ import annotations

import dataclasses
import inspect
import re

from burnish.passes.base import Fixpoint, Pass
from burnish.passes.canonicalize import FORMS, NO_OPS
from burnish.passes.layout.nhwc import ChannelsLast
from burnish.passes.pipelines import LEVELS, pipeline
from burnish.passes.rewrite import RewritePass, Rule
from burnish.passes.rows import Row
from burnish.passes.simplify import LATE, TABLE
from burnish.passes.simplify_movement import MOVEMENT

_HEAD = """\
# Passes

Made from docstrings by `python -m burnish.passes.catalogue`; do not edit.

A pass is a frozen dataclass in its own module: its fields are its options, its docstring is its
contract, and `run(graph, ctx)` changes the graph in place and says whether it did. A rule is a
pattern and a rewrite, or a row of a table: one function, one equation. `burnish optimize
--list-passes` prints the order, `--skip-pass` and `--only-pass` choose, `--dump-ir DIR` writes
every stage as an ONNX model that onnxruntime runs.

*Numerics*: **exact** keeps every bit, **reassociates** evaluates the same formula with other
rounding, **approximates** has a stated error, **narrows** rounds tensors to 16 bits,
**quantizes** to 8. Tests take their tolerances from it.
"""
_ROWS = {"canonicalize": (NO_OPS, FORMS), "simplify": (TABLE, MOVEMENT, LATE)}


def catalogue() -> str:
    """The text of the catalogue."""
    parts = [_HEAD, "## Order", *map(_order, LEVELS)]
    parts += ["\n## The passes", *map(_entry, _all_passes())]
    return "\n".join(parts).rstrip() + "\n"


def all_rules() -> list[Rule]:
    """Every rewrite rule of the passes of all levels."""
    return [rule for item in _all_passes() for rule in rules_of(item)]


def rules_of(item: Pass) -> list[Rule]:
    """The rewrite rules of a pass, in order."""
    rules: list[Rule] = [rule for table in _ROWS.get(item.name, ()) for rule in table]
    return rules + list(item.rules) if isinstance(item, (ChannelsLast, RewritePass)) else rules


def _all_passes() -> list[Pass]:
    """The passes of all levels and precisions, each class once."""
    found: dict[type[Pass], Pass] = {}
    for level in LEVELS:
        for entry in pipeline(level, precision="fp16", integers=True, weight_only=True):
            for item in entry.passes if isinstance(entry, Fixpoint) else (entry,):
                found.setdefault(type(item), item)
    return list(found.values())


def _order(level: int) -> str:
    steps = [
        f"({' → '.join(p.spec for p in entry.passes)})*"
        if isinstance(entry, Fixpoint)
        else entry.spec
        for entry in pipeline(level)
    ]
    return f"- `-O{level}`: {' → '.join(steps)}"


def _default(field: dataclasses.Field[object]) -> object:
    """What a field is if nothing is given."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _entry(item: Pass) -> str:
    cls = type(item)
    text = cls.contract().split("\nAttributes:")[0].strip()
    # The parts of the contract become list items, with their continuation lines.
    text = re.sub(r"\n(\w[\w ]*): ", r"\n- **\1**: ", text)
    lines = [f"\n### {item.name}\n", text]
    options = [
        f"`{f.name} = {_default(f)}`"
        for f in dataclasses.fields(item)  # type: ignore[arg-type]
    ]
    if options:
        lines.append(f"- **Options**: {', '.join(options)}")
    rules = rules_of(item)
    if rules:
        lines += ["", "| rule | what | numerics |", "|---|---|---|", *map(_rule, rules)]
    return "\n".join(lines)


def _rule(rule: Rule) -> str:
    if isinstance(rule, Row):
        what = rule.equation
    else:
        what = inspect.cleandoc(type(rule).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return f"| {rule.name} | {what.replace('|', chr(92) + '|')} | {rule.numerics.value} |"


if __name__ == "__main__":
    print(catalogue(), end="")
