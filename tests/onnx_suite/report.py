"""``RESULTS.md``: what of the suite passes, beside TVM's importer and onnxruntime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata

from tests.onnx_suite.cases import KINDS
from tests.onnx_suite.denied import Group, Inexact
from tests.onnx_suite.outcome import STATUSES, Outcome

#: Cases of onnx 1.23.2 that pass elsewhere, each in a process of its own with the case's own
#: tolerances, measured once: TVM 0.27.0.post1 (``from_onnx``, its default CPU build) on the models
#: as given, and onnxruntime 1.31.1 with the IR version capped to 11 and unreleased opsets allowed.
PEERS: dict[str, dict[str, int]] = {
    "TVM's importer": {
        "node": 767,
        "simple": 8,
        "pytorch-operator": 34,
        "pytorch-converted": 79,
        "real": 8,
    },
    "onnxruntime": {
        "node": 1484,
        "simple": 17,
        "pytorch-operator": 24,
        "pytorch-converted": 59,
        "real": 9,
    },
}
#: The same with inputs that are sizes, axes or weights made constants where that helps, and the
#: cases where it gives a wrong result without an error.
TVM_BOUND, TVM_WRONG = 1067, 140


def markdown(
    kinds: Mapping[str, str],
    outcomes: Mapping[str, Outcome],
    groups: Sequence[Group],
    inexact: Sequence[Inexact],
) -> str:
    """The document.

    Args:
        kinds: Kind of each case.
        outcomes: Outcome of each case.
        groups: The list of refused cases.
        inexact: The cases whose stored outputs are inexact.
    """
    lines = [
        "# The ONNX backend suite",
        "",
        f"onnx {metadata.version('onnx')}, {len(outcomes)} cases. Every case goes the way of "
        "`burnish compile` for the",
        "machine's own CPU at `-O3`, is loaded and run, and its outputs are compared with those "
        "that the",
        "case stores: number, dtype, shape, values within the case's own tolerances.",
        "",
        "`python -m tests.onnx_suite` writes this file; `pytest tests/onnx_suite` checks it case "
        "by case.",
        "",
        *_counts(kinds, outcomes),
        "",
        "*refused*: an error before anything runs that lists what is not supported. The numbers of "
        "the others",
        "are for onnx 1.23.2: TVM 0.27.0.post1 with its own importer on the models as given "
        f"({TVM_BOUND} with inputs",
        f"that are sizes, axes or weights made constants; {TVM_WRONG} wrong results without an "
        "error), and",
        "onnxruntime 1.31.1.",
        "",
        "*inexact*: outside of the case's tolerance, because what the case stores is further from "
        "the exact",
        "result than its tolerance:",
        "",
        *_table(
            ["case", "rtol", "atol", "why"],
            [[i.case, f"{i.rtol:g}", f"{i.atol:g}", i.reason] for i in inexact],
        ),
        "",
        "## What is refused",
        "",
        *_table(
            ["reason", "cases"],
            [
                [g.reason, len(g.cases)]
                for g in sorted(groups, key=lambda g: (-len(g.cases), g.reason))
                if g.cases
            ],
        ),
        "",
    ]
    return "\n".join(lines)


def _counts(kinds: Mapping[str, str], outcomes: Mapping[str, Outcome]) -> list[str]:
    """The table of outcomes by kind."""
    counts = Counter((kinds[name], outcome.status) for name, outcome in outcomes.items())
    rows = [
        [kind, sum(1 for k in kinds.values() if k == kind)]
        + [counts[kind, status] for status in STATUSES]
        + [peer[kind] for peer in PEERS.values()]
        for kind in KINDS
    ]
    columns = zip(*(row[1:] for row in rows), strict=True)
    rows.append(["all", *(sum(map(int, column)) for column in columns)])
    return _table(["kind", "cases", *STATUSES, *PEERS], rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
    ]
