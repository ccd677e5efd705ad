"""A process that forks one child for each case: ``python -m tests.onnx_suite.server JOBS``.

It loads TVM, the compiler and all cases once; a child starts with them in milliseconds. Names of
cases arrive on standard input, a line each, and results leave on standard output, a line of JSON
each. At the end of the input it finishes what it has and ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.onnx_suite import child
from tests.onnx_suite.cases import Case, load_cases
from tests.onnx_suite.outcome import Outcome

#: Wall time of a case: a multiple of its CPU time, for other work may be going on beside it.
PATIENCE = 4


@dataclass
class _Running:
    case: Case
    pid: int
    pipe: int
    folder: Path
    since: float
    received: bytes = b""

    @property
    def deadline(self) -> float:
        seconds, _ = child.LIMITS.get(self.case.kind, child.DEFAULT_LIMIT)
        return self.since + PATIENCE * seconds


def warm_up() -> None:
    """Import and initialize everything that a compilation needs, so that children share it."""
    import onnx.parser

    from burnish.driver import compile_artifact
    from burnish.options import CompileOptions
    from burnish.requests import CompileRequest

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> warm (float[2,3] x) => (float[2,3] y) '
        "{ a = Relu(x) y = Softmax(a) }"
    )
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "warm.burnish")
        compile_artifact(CompileRequest(model.SerializeToString(), output, CompileOptions()))
    # What a trivial model does not need.
    import burnish.lowering.dynamic_rules
    import burnish.lowering.loops
    import burnish.runtime  # noqa: F401


class Server:
    """Runs cases, at most ``jobs`` at a time."""

    def __init__(self, cases: Mapping[str, Case], jobs: int, folder: Path) -> None:
        self.cases = cases
        self.jobs = jobs
        self.folder = folder
        self.waiting: deque[str] = deque()
        self.running: dict[int, _Running] = {}
        self.open = True

    def serve(self) -> None:
        """Work until the input has ended and all is done."""
        buffer = b""
        while self.open or self.waiting or self.running:
            while self.waiting and len(self.running) < self.jobs:
                self._start(self.waiting.popleft())
            sources = [*self.running, *([0] if self.open else [])]
            ready, _, _ = select.select(sources, [], [], 0.5)
            for source in ready:
                chunk = os.read(source, 1 << 16)
                if source:
                    self._received(self.running[source], chunk)
                    continue
                self.open = bool(chunk)
                *lines, buffer = (buffer + chunk).split(b"\n")
                self.waiting.extend(line.decode() for line in lines)
            for job in list(self.running.values()):
                if time.monotonic() > job.deadline:
                    self._end(job, Outcome("timeout", "wall time"))

    def _start(self, name: str) -> None:
        folder = self.folder / name
        folder.mkdir()
        receive, send = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            os.close(receive)
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(log, 1)
            os.dup2(log, 2)
            try:
                child.main(self.cases[name], folder, send)
            finally:
                os._exit(1)
        os.close(send)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        self.running[receive] = _Running(self.cases[name], pid, receive, folder, time.monotonic())

    def _received(self, job: _Running, chunk: bytes) -> None:
        job.received += chunk
        if not chunk:
            self._end(job, None)

    def _end(self, job: _Running, outcome: Outcome | None) -> None:
        """Collect a child, and whatever it has started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if outcome is not None:
                os.killpg(job.pid, signal.SIGKILL)
        _, status = os.waitpid(job.pid, 0)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(job.pid, signal.SIGKILL)
        os.close(job.pipe)
        del self.running[job.pipe]
        if outcome is None:
            outcome = Outcome.decode(job.received) if job.received else _death(job, status)
        outcome = replace(outcome, seconds=round(time.monotonic() - job.since, 3))
        shutil.rmtree(job.folder, ignore_errors=True)
        line = json.dumps({"name": job.case.name}).encode() + b"\t" + outcome.encode()
        while line:
            line = line[os.write(_RESULTS, line) :]


def _death(job: _Running, status: int) -> Outcome:
    text = (job.folder / "log").read_text(errors="replace")[-2000:]
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGXCPU:
            return Outcome("timeout", "CPU time")
        return Outcome("crashed", f"{signal.Signals(number).name}: {text}")
    return Outcome("crashed", f"exit status {os.WEXITSTATUS(status)}: {text}")


_RESULTS = 1


def main(arguments: list[str]) -> int:
    """Serve."""
    global _RESULTS
    _RESULTS = os.dup(1)
    os.dup2(2, 1)  # standard output belongs to the results
    cases = load_cases()
    warm_up()
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="onnx-suite-") as folder:
        Server(cases, int(arguments[0]), Path(folder)).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
