"""Runs cases through the server and hands out their outcomes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from tests.onnx_suite.outcome import Outcome

ROOT = Path(__file__).parents[2]


class Pool:
    """A server with cases under way.

    Args:
        jobs: Cases at a time; None for one on each CPU that this process may use.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self._outcomes: dict[str, Outcome] = {}
        self._changed = threading.Condition()
        self._ended = False
        # Temporary names of the children hang under this; the server removes the rest itself.
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-suite-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name) / "log"
        count = jobs or len(os.sched_getaffinity(0))
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.onnx_suite.server", str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"TMPDIR": self._folder.name},
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, names: Iterable[str]) -> None:
        """Hand in all cases that will be asked for."""
        stdin = self._server.stdin
        assert stdin is not None
        with stdin:
            stdin.write("".join(f"{name}\n" for name in names).encode())

    def outcome(self, name: str) -> Outcome:
        """The outcome of a case that was handed in; waits for it.

        Raises:
            RuntimeError: The server ended without it.
        """
        with self._changed:
            self._changed.wait_for(lambda: name in self._outcomes or self._ended)
            if name not in self._outcomes:
                text = self._log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"the server ended before {name}:\n{text}")
            return self._outcomes[name]

    def _read(self) -> None:
        assert self._server.stdout is not None
        with self._server.stdout as lines:
            for line in lines:
                head, _, outcome = line.partition(b"\t")
                with self._changed:
                    self._outcomes[json.loads(head)["name"]] = Outcome.decode(outcome)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.terminate()
        self._server.wait()
        self._reader.join()
        self._folder.cleanup()
