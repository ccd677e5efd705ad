"""What became of a case."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

#: ``passed``; ``refused``: a BurnishError of exit code 3 or 4 before anything ran; ``wrong``:
#: results that differ; ``inexact``: they differ, but are those that the case would store if its
#: generator had computed in a higher precision; ``failed``: any other error; ``crashed``;
#: ``timeout``.
Status: TypeAlias = Literal["passed", "refused", "inexact", "wrong", "failed", "crashed", "timeout"]
STATUSES: tuple[Status, ...] = get_args(Status)

_LIMIT = 60_000  # a pipe takes this much at once


@dataclass(frozen=True)
class Outcome:
    """The end of a case.

    Attributes:
        status: How it ended.
        detail: Why, for people.
        seconds: Wall time.
    """

    status: Status
    detail: str = ""
    seconds: float = 0.0

    def encode(self) -> bytes:
        """As one line of JSON."""
        shown = self.detail if len(self.detail) < _LIMIT // 4 else self.detail[-_LIMIT // 4 :]
        return json.dumps(asdict(self) | {"detail": shown}).encode() + b"\n"

    @staticmethod
    def decode(line: bytes) -> Outcome:
        """The outcome that :meth:`encode` wrote."""
        return Outcome(**json.loads(line))
