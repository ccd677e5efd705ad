"""The compile worker: a child process, so that an abort in LLVM or TVM is an error and no more.

:func:`run_in_worker` runs a function in ``python -m burnish.worker``. The function's arguments and
result are pickled; what it passes to :func:`report` reaches the caller's callback while it runs;
a :class:`BurnishError` that it raises is raised by the caller. A child that dies is a CompileError
that names the signal and the phase. The child and all that it started end with the call: after
Ctrl-C, after an error, and when the parent is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import importlib
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from burnish.errors import BurnishError, CompileError, InputFileError

#: Called with (phase, done, total): ``total`` is 0 where the number of steps is not known.
Progress = Callable[[str, int, int], None]

_HEADER = struct.Struct("<Q")
_TAIL_BYTES = 4000
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class _Request:
    """What the child gets on its standard input."""

    function: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: list[str]
    preload_tvm: bool


class WorkerTracebackError(Exception):
    """Cause of an unexpected exception of the child: its traceback there, as text."""


_reporter: Progress | None = None
_cleaner: Callable[[str], None] | None = None


def report(phase: str, done: int = 0, total: int = 0) -> None:
    """Tell how far the work is. Without a listener, nothing happens.

    Args:
        phase: What is being done, in a few words: ``"kernels"``.
        done: Steps of it that are done.
        total: Steps of it; 0 if that is not known.
    """
    if _reporter is not None:
        _reporter(phase, done, total)


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """Make ``import torch`` fail for the time being, unless somebody has imported it already.

    tvm_ffi and tvm.relax import it where it is installed, to exchange tensors with it, and that
    takes longer than many a compilation.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def remove_if_killed(path: str | os.PathLike[str]) -> None:
    """Have the parent remove a folder if this worker dies before its function has ended.

    For folders outside of the temporary directory, which goes in any case. Outside of a worker,
    nothing happens.
    """
    if _cleaner is not None:
        _cleaner(os.path.abspath(path))


def run_in_worker(
    function: str,
    *args: Any,
    progress: Progress | None = None,
    isolate: bool = True,
    preload_tvm: bool = True,
    role: str = "compile worker",
    **kwargs: Any,
) -> Any:
    """Run a function in a process of its own.

    Args:
        function: ``"module:function"``, importable with this process's ``sys.path``.
        args: Its positional arguments; have to be picklable, as does its result.
        progress: Gets what the function reports.
        isolate: False runs it in this process, for debugging.
        preload_tvm: Import tvm_ffi at the start, :func:`without_torch`.
        role: What the process is called if it dies.
        kwargs: Its keyword arguments.

    Returns:
        What the function returned.

    Raises:
        BurnishError: The function raised it.
        CompileError: The child died.
        Exception: Whatever else the function raised: a bug; its cause is a WorkerTracebackError.
    """
    if not isolate:
        with _listening(progress):
            return _resolve(function)(*args, **kwargs)
    request = _Request(function, args, kwargs, list(sys.path), preload_tvm)
    # The child's temporary files, and its own children's, lie in a folder that goes with it.
    with tempfile.TemporaryDirectory(
        prefix="burnish-worker-", ignore_cleanup_errors=True
    ) as folder:
        return _Worker(folder, progress, role).run(pickle.dumps(request))


@contextlib.contextmanager
def _listening(progress: Progress | None) -> Iterator[None]:
    global _reporter
    saved, _reporter = _reporter, progress
    try:
        yield
    finally:
        _reporter = saved


def _resolve(function: str) -> Callable[..., Any]:
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


@dataclass
class _Worker:
    """The parent's side of one child."""

    folder: str
    progress: Progress | None
    role: str
    phase: str = "start-up"
    tail: bytearray = field(default_factory=bytearray)
    removals: list[str] = field(default_factory=list)

    def run(self, request: bytes) -> Any:
        receive, send = os.pipe()
        with open(receive, "rb") as results:
            try:
                process = self._start(send)
            finally:
                os.close(send)
            kind: str = "died"
            try:
                collector = self._collect(process)
                kind, value = self._exchange(process, request, results)
                if kind == "died":
                    process.wait()
                    collector.join(timeout=5)
            finally:
                _end(process)
                if kind == "died":
                    self._clean(results)
        if kind == "died":
            raise self._death(process.returncode)
        if kind == "error":
            error, trace = value
            raise error from (
                None if isinstance(error, BurnishError) else WorkerTracebackError(trace)
            )
        return value

    def _start(self, send: int) -> subprocess.Popen[bytes]:
        environment = os.environ | {"TMPDIR": self.folder, "PYTHONSAFEPATH": "1"}
        return subprocess.Popen(
            [sys.executable, "-m", "burnish.worker", str(send), str(os.getpid())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[send],
            env=environment,
            # A group of its own: Ctrl-C reaches the parent alone, which then ends the whole group.
            start_new_session=True,
        )

    def _collect(self, process: subprocess.Popen[bytes]) -> threading.Thread:
        """Keep the end of what the child writes to stderr."""

        def read(stream: IO[bytes]) -> None:
            with stream:
                while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
                    self.tail += chunk
                    del self.tail[:-_TAIL_BYTES]

        assert process.stderr is not None
        thread = threading.Thread(target=read, args=(process.stderr,), daemon=True)
        thread.start()
        return thread

    def _exchange(
        self, process: subprocess.Popen[bytes], request: bytes, results: IO[bytes]
    ) -> tuple[str, Any]:
        """Hand over the request and take messages until the last one."""
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(request)
        while (message := _receive(results)) is not None:
            kind, value = message
            if kind == "remove":
                self.removals.append(value)
            elif kind != "progress":
                return kind, value
            else:
                self.phase = value[0]
                if self.progress is not None:
                    self.progress(*value)
        return "died", None

    def _clean(self, results: IO[bytes]) -> None:
        """Remove what a dead child wanted removed, including what was not read from it yet."""
        while (message := _receive(results)) is not None:
            if message[0] == "remove":
                self.removals.append(message[1])
        for path in self.removals:
            shutil.rmtree(path, ignore_errors=True)

    def _death(self, status: int) -> BurnishError:
        text = self.tail.decode(errors="replace").strip()
        if os.strerror(errno.ENOSPC) in text:
            # LLVM aborts when it cannot write an object file.
            return InputFileError(
                "the disk is full",
                at=tempfile.gettempdir(),
                hint=f"free some space there, or set TMPDIR; its last output:\n{text}",
            )
        hint = f"its last output:\n{text}" if text else None
        if status >= 0:
            how = f"ended with exit status {status}"
        else:
            how = f"was killed by {_signal_name(-status)}"
            if -status == signal.SIGKILL:
                hint = "most likely the memory was used up: " + (hint or "free some, or add swap")
        return CompileError(f"the {self.role} {how}", at=self.phase, hint=hint)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the child's process group, whatever state it is in, and collect the child."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _receive(stream: IO[bytes]) -> tuple[str, Any] | None:
    """The next message, or None if the other side is gone."""
    header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    (size,) = _HEADER.unpack(header)
    body = stream.read(size)
    if len(body) < size:
        return None
    message: tuple[str, Any] = pickle.loads(body)
    return message


def _send(stream: IO[bytes], kind: str, value: Any) -> None:
    body = pickle.dumps((kind, value))
    stream.write(_HEADER.pack(len(body)) + body)
    stream.flush()


def _picklable(error: BaseException) -> BaseException:
    """The exception itself if it survives pickling, otherwise one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        os._exit(1)


def main(arguments: list[str]) -> int:
    """The child: ``python -m burnish.worker FD PARENT``, with the request on standard input."""
    global _cleaner
    _die_with_parent(int(arguments[1]))
    os.dup2(2, 1)  # standard output belongs to the parent's results
    with open(int(arguments[0]), "wb") as results:
        _cleaner = functools.partial(_send, results, "remove")
        try:
            request: _Request = pickle.load(sys.stdin.buffer)
            sys.path[:] = request.path
            if request.preload_tvm:
                with without_torch():
                    importlib.import_module("tvm_ffi")
            with _listening(lambda *event: _send(results, "progress", event)):
                answer = "result", _resolve(request.function)(*request.args, **request.kwargs)
        except Exception as error:
            answer = "error", (_picklable(error), traceback.format_exc())
        _send(results, *answer)
        # Nothing is left to do: skip the destructors of the libraries.
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    # Classes of this file must be those that the parent pickles: burnish.worker's, not __main__'s.
    from burnish.worker import main as imported_main

    sys.exit(imported_main(sys.argv[1:]))
