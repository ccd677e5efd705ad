"""Threads: several callers of one model, the one pool, fork, and the default count."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T  # noqa: N812 - TVM's own name for it

from burnish.artifact import TensorInfo, write_artifact
from burnish.errors import RunError
from burnish.runtime import default_threads, load
from tests.support import handmade


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.affine_artifact(tmp_path_factory.mktemp("affine") / "affine.burnish", chain=4)


def script(code: str, *args: str | Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("threads", [1, 2])
def test_one_model_called_from_several_threads(affine: Path, threads: int) -> None:
    callers, runs = 6, 150
    start = threading.Barrier(callers)

    with load(affine, threads=threads) as model:

        def work(caller: int) -> None:
            generator = np.random.default_rng(caller)
            start.wait()
            for _ in range(runs):
                x = generator.standard_normal((int(generator.integers(1, 300)), 16), np.float32)
                (y,) = model.run(None, {"x": x})
                np.testing.assert_allclose(y, handmade.affine_reference(x, 4), rtol=1e-5)

        with ThreadPoolExecutor(callers) as pool:
            for future in [pool.submit(work, caller) for caller in range(callers)]:
                future.result()


def test_two_models_of_one_library_do_not_disturb_each_other(affine: Path) -> None:
    x = np.ones((3, 16), np.float32)
    first = load(affine, threads=1)
    second = load(affine, threads=1)
    expected = handmade.affine_reference(x, 4)
    np.testing.assert_allclose(second.run(None, {"x": x})[0], expected, rtol=1e-5)
    second.close()
    del second
    np.testing.assert_allclose(first.run(None, {"x": x})[0], expected, rtol=1e-5)


# Threads of the process are counted after every run: TVM's pool would appear among them, and its
# creation would also pin this thread. openblas is kept from making threads of its own.
_COUNT_THREADS = """
import os, sys
import numpy as np
from burnish.runtime import load
before = os.sched_getaffinity(0)
model = load(sys.argv[1], threads=1)
x = np.ones((2000, 16), np.float32)
base = len(os.listdir("/proc/self/task"))
counts = []
for threads in (1, 2, 3, 2):
    model.threads = threads
    model.run(None, {"x": x})
    counts.append(len(os.listdir("/proc/self/task")) - base)
print(counts)
assert os.sched_getaffinity(0) == before
"""


def test_a_call_uses_as_many_threads_as_it_is_told_and_no_other_pool(affine: Path) -> None:
    output = script(_COUNT_THREADS, affine, environment={"OPENBLAS_NUM_THREADS": "1"})
    # Helpers that a smaller number does not need sleep.
    assert output.strip() == "[0, 1, 2, 2]"


# Both threads on one CPU: whoever waits must let the other work.
_ONE_CPU = """
import os, sys, time
import numpy as np
from burnish.runtime import load
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
model = load(sys.argv[1], threads=1)
x = np.ones((2000, 16), np.float32)
expected = model.run(None, {"x": x})[0]
best = {}
for threads in (1, 2, 1, 2):
    model.threads = threads
    start = time.perf_counter()
    for _ in range(200):
        assert np.array_equal(model.run(None, {"x": x})[0], expected)
    best[threads] = min(best.get(threads, 9e9), time.perf_counter() - start)
print(best[2] / best[1])
"""


def test_threads_without_a_cpu_of_their_own_do_not_stall(affine: Path) -> None:
    # A scheduler tick for each loop, as behind a barrier that spins, would be a factor of 50.
    assert float(script(_ONE_CPU, affine)) < 10


_FORK = """
import os, sys
import numpy as np
from burnish.runtime import load
model = load(sys.argv[1], threads=2)
x = np.ones((2000, 16), np.float32)
expected = model.run(None, {"x": x})[0]
for _ in range(3):
    child = os.fork()
    if child == 0:
        for _ in range(3):
            same = np.array_equal(model.run(None, {"x": x})[0], expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(model.run(None, {"x": x})[0], expected)
"""


def test_a_forked_child_can_run_the_parents_model(affine: Path) -> None:
    script(_FORK, affine)


def test_fork_while_another_thread_runs(affine: Path) -> None:
    code = """
import os, sys, threading
import numpy as np
from burnish.runtime import load
model = load(sys.argv[1], threads=2)
x = np.ones((2000, 16), np.float32)
stop = threading.Event()
def work():
    while not stop.is_set():
        model.run(None, {"x": x})
thread = threading.Thread(target=work)
thread.start()
fresh = load(sys.argv[1], threads=2)
for _ in range(5):
    child = os.fork()
    if child == 0:
        fresh.run(None, {"x": x})
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    script(code, affine)


@pytest.fixture(scope="module")
def refuses_large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """y = x + 1, with an assertion in the parallel loop that x[i, 0] is below 100."""
    rows = tirx.Var("rows", "int64")
    with IRBuilder() as builder, T.prim_func(s_tir=True, is_private=True):
        T.func_name("refuses_large")
        x = T.arg("x", T.buffer((rows, 16), "float32", align=4))
        y = T.arg("y", T.buffer((rows, 16), "float32"))
        with (
            T.parallel(rows) as i,
            T.Assert(x[i, 0] < T.float32(100), "too large"),
            T.serial(16) as j,
        ):
            T.buffer_store(y, x[i, j] + T.float32(1), [i, j])
    n = tirx.Var("n", "int64")
    mod = handmade.module(
        [("x", (n, 16), "float32")],
        lambda builder, kernels, x: [handmade.call(builder, kernels["kernel"], [x], (n, 16))],
        [("kernel", builder.get())],
    )
    folder = tmp_path_factory.mktemp("refuses")
    handmade.compile_library(mod, folder / "model.so")
    described = handmade.manifest(
        [TensorInfo("x", "float32", ("n", 16))], [TensorInfo("y", "float32", ("n", 16))]
    )
    write_artifact(folder / "a.burnish", described, folder / "model.so", [])
    return folder / "a.burnish"


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_an_error_in_any_thread_of_a_loop_reaches_the_caller(
    refuses_large: Path, threads: int
) -> None:
    model = load(refuses_large, threads=threads)
    for bad in (0, 50, 99):
        x = np.ones((100, 16), np.float32)
        np.testing.assert_array_equal(model.run(None, {"x": x})[0], x + 1)
        x[bad] = 1000
        with pytest.raises(RunError, match="too large"):
            model.run(None, {"x": x})


def test_the_default_is_the_cpus_of_the_affinity_mask() -> None:
    assert 1 <= default_threads() <= len(os.sched_getaffinity(0))
    code = """
import os
from burnish.runtime import default_threads
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
assert default_threads() == 1
"""
    script(code)
