"""The cases that are refused, each with its reason: ``denied.toml``.

A group says why its cases are refused, and what the refusal has to look like. Cases that pass, that
fail in another way, or that are refused for another reason contradict the list.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.onnx_suite.outcome import Outcome

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("denied.toml")

_HEADER = """\
# Cases of the ONNX backend suite that burnish refuses, by reason. Every case has to be refused
# before anything runs, by an error of exit code 3 or 4 that `refusal` (a regular expression)
# matches. `python -m tests.onnx_suite --update` rewrites the lists of cases; the groups are written
# by hand. The outputs that an `inexact` case stores are themselves off by more than its tolerance.
"""


@dataclass(frozen=True)
class Group:
    """Cases that are refused for one reason.

    Attributes:
        reason: Why, for people.
        refusal: What the error says.
        cases: Names of the cases.
    """

    reason: str
    refusal: str
    cases: tuple[str, ...]

    def matches(self, outcome: Outcome) -> bool:
        """Whether a case ended as this group says."""
        return outcome.status == "refused" and bool(re.search(self.refusal, outcome.detail))


@dataclass(frozen=True)
class Inexact:
    """A case whose stored output is further from the exact result than its tolerance.

    Attributes:
        case: Its name.
        reason: Why the stored output is inexact.
        rtol: Relative tolerance that covers its error.
        atol: Absolute tolerance that covers its error.
    """

    case: str
    reason: str
    rtol: float
    atol: float


def read_inexact(path: Path = FILE) -> list[Inexact]:
    """The cases with inexact outputs."""
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    return [Inexact(**row) for row in data.get("inexact", ())]


def read(path: Path = FILE) -> list[Group]:
    """The groups of the file.

    Raises:
        ValueError: A case is listed twice.
    """
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    groups = [Group(g["reason"], g["refusal"], tuple(g["cases"])) for g in data["group"]]
    names = [name for group in groups for name in group.cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"listed twice: {', '.join(sorted(twice))}")
    return groups


def by_case(groups: Iterable[Group]) -> dict[str, Group]:
    """The group of each case that is listed."""
    return {name: group for group in groups for name in group.cases}


def problem(outcome: Outcome, group: Group | None, inexact: bool = False) -> str | None:
    """What contradicts the list, or None.

    Args:
        outcome: How a case ended.
        group: The group that lists it as refused.
        inexact: Whether its stored outputs are listed as inexact.
    """
    if inexact:
        wrong = None if outcome.status == "inexact" else f"{outcome.status}: {outcome.detail}"
        return "passes, but is listed as inexact" if outcome.status == "passed" else wrong
    if group is None:
        return None if outcome.status == "passed" else f"{outcome.status}: {outcome.detail}"
    if outcome.status == "passed":
        return f"passes, but is on the list of refused cases ({group.reason})"
    if not group.matches(outcome):
        return f"should be refused ({group.reason}), but {outcome.status}: {outcome.detail}"
    return None


def update(groups: list[Group], outcomes: Mapping[str, Outcome]) -> list[Group]:
    """The groups with the cases that were refused for their reason, the first that matches."""
    sorted_in: dict[int, list[str]] = {i: [] for i in range(len(groups))}
    for name, outcome in outcomes.items():
        index = next((i for i, g in enumerate(groups) if g.matches(outcome)), None)
        if index is not None:
            sorted_in[index].append(name)
    return [replace(g, cases=tuple(sorted(sorted_in[i]))) for i, g in enumerate(groups)]


def write(groups: Iterable[Group], inexact: Iterable[Inexact], path: Path = FILE) -> None:
    """Write the file."""
    parts = [_HEADER]
    for group in groups:
        cases = "".join(f"    {json.dumps(name)},\n" for name in group.cases)
        parts.append(
            f"\n[[group]]\nreason = {json.dumps(group.reason)}\n"
            f"refusal = '''{group.refusal}'''\ncases = [\n{cases}]\n"
        )
    parts += [
        f"\n[[inexact]]\ncase = {json.dumps(row.case)}\nreason = {json.dumps(row.reason)}\n"
        f"rtol = {row.rtol}\natol = {row.atol}\n"
        for row in inexact
    ]
    path.write_text("".join(parts), encoding="utf-8")
