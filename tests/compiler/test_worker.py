"""The compile worker: results, progress, and every way in which a child can end badly."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from burnish.errors import CompileError, InputFileError, UnsupportedOpError
from burnish.worker import WorkerTracebackError, remove_if_killed, report, run_in_worker

HERE = "tests.compiler.test_worker"


# What the child runs.


def add(a: int, b: int, *, scale: int = 1) -> dict[str, Any]:
    print("library chatter")
    return {"sum": (a + b) * scale, "pid": os.getpid(), "temporary": tempfile.mkdtemp()}


def count(total: int) -> str:
    for done in range(total):
        report("kernels", done, total)
    report("linking")
    return "done"


def refuse() -> None:
    raise UnsupportedOpError("no Foo and no Bar", at="node_7", hint="use others")


def stumble() -> None:
    raise KeyError("a bug")


def abort() -> None:
    report("code generation", 3, 9)
    os.write(2, b"early\n" * 10_000 + b"LLVM ERROR: out of registers\n")
    ctypes.CDLL(None).abort()


def abort_on_a_full_disk() -> None:
    os.write(2, b"LLVM ERROR: IO failure on output stream: No space left on device\n")
    os.abort()


def crash_reading_null() -> None:
    ctypes.string_at(0)


def leave(status: int) -> None:
    os._exit(status)


def kill_itself(folder: str) -> None:
    remove_if_killed(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def wait_with_a_child(folder: str) -> None:
    """Start a grandchild, tell both process ids, and wait for ever."""
    grandchild = subprocess.Popen(["sleep", "600"])
    Path(folder, "pids").write_text(f"{os.getpid()} {grandchild.pid}")
    remove_if_killed(Path(folder, "half-written"))
    Path(folder, "half-written").mkdir()
    report("waiting")
    time.sleep(600)


def loaded_modules() -> set[str]:
    return {name for name in ("torch", "tvm", "tvm_ffi", "onnx", "numpy") if name in sys.modules}


def run(name: str, *args: Any, **kwargs: Any) -> Any:
    return run_in_worker(f"{HERE}:{name}", *args, **{"preload_tvm": False} | kwargs)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_result_of_another_process(capfd: pytest.CaptureFixture[str]) -> None:
    result = run("add", 2, b=3, scale=10)
    assert result["sum"] == 50
    assert result["pid"] != os.getpid()
    # Its temporary files went with it, and nothing reached our standard output.
    assert not Path(result["temporary"]).exists()
    assert capfd.readouterr().out == ""


def test_without_isolation_it_runs_here() -> None:
    events: list[Any] = []
    assert run("add", 1, 1, isolate=False)["pid"] == os.getpid()
    assert run("count", 2, isolate=False, progress=lambda *e: events.append(e)) == "done"
    assert events == [("kernels", 0, 2), ("kernels", 1, 2), ("linking", 0, 0)]
    report("nobody listens")


def test_progress_arrives_in_order() -> None:
    events: list[Any] = []
    assert run("count", 1000, progress=lambda *event: events.append(event)) == "done"
    assert events == [*(("kernels", i, 1000) for i in range(1000)), ("linking", 0, 0)]


def test_a_failing_callback_ends_the_worker() -> None:
    def fail(phase: str, done: int, total: int) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run("count", 10, progress=fail)


def test_deliberate_errors_are_raised_here() -> None:
    with pytest.raises(UnsupportedOpError, match="no Foo") as caught:
        run("refuse")
    assert caught.value.at == "node_7"
    assert caught.value.hint == "use others"
    assert caught.value.__cause__ is None


def test_bugs_come_with_the_childs_traceback() -> None:
    with pytest.raises(KeyError, match="a bug") as caught:
        run("stumble")
    assert isinstance(caught.value.__cause__, WorkerTracebackError)
    assert "in stumble" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("abort", (), "killed by SIGABRT"),
        ("crash_reading_null", (), "killed by SIGSEGV"),
        ("leave", (3,), "ended with exit status 3"),
        ("leave", (0,), "ended with exit status 0"),
    ],
)
def test_a_dead_child_is_a_compile_error(name: str, args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CompileError, match=message) as caught:
        run(name, *args)
    assert caught.value.exit_code == 4


def test_a_full_disk_is_named() -> None:
    with pytest.raises(InputFileError, match="disk is full") as caught:
        run("abort_on_a_full_disk")
    assert caught.value.exit_code == 2
    assert "TMPDIR" in str(caught.value.hint)


def test_death_tells_the_phase_and_the_last_output() -> None:
    with pytest.raises(CompileError) as caught:
        run("abort")
    assert caught.value.at == "code generation"
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("LLVM ERROR: out of registers")
    assert len(caught.value.hint) < 5000


def test_a_killed_child_points_at_memory_and_its_folders_go(tmp_path: Path) -> None:
    folder = tmp_path / "half-written"
    folder.mkdir()
    (folder / "model.so").write_bytes(b"x")
    with pytest.raises(CompileError, match="SIGKILL") as caught:
        run("kill_itself", str(folder))
    assert "memory" in str(caught.value.hint)
    assert not folder.exists()


def test_preloading_tvm_leaves_torch_out() -> None:
    assert run("loaded_modules") == set()
    assert "tvm_ffi" in run("loaded_modules", preload_tvm=True)
    assert "torch" not in run("loaded_modules", preload_tvm=True)


_PARENT = f"""
import sys
from burnish.worker import run_in_worker
try:
    run_in_worker("{HERE}:wait_with_a_child", sys.argv[1], preload_tvm=False)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_the_child_does_not_outlive_its_parent(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path)], env=environment)
    half_written = tmp_path / "half-written"
    try:
        wait_until(half_written.exists)
        worker, grandchild = map(int, (tmp_path / "pids").read_text().split())
        assert is_running(worker)
        assert is_running(grandchild)
        parent.send_signal(number)
        assert parent.wait(timeout=20) == status
        wait_until(lambda: not is_running(worker))
        if number == signal.SIGINT:
            # The parent could clean up: the grandchild, the temporary folder, the output.
            wait_until(lambda: not is_running(grandchild))
            assert sorted(p.name for p in tmp_path.iterdir()) == ["pids"]
        else:
            os.kill(grandchild, signal.SIGKILL)
    finally:
        parent.kill()
        parent.wait()
