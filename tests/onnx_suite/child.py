"""One case, in a process of its own: compiled as ``burnish compile`` does, loaded, run, judged."""

from __future__ import annotations

import os
import resource
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from burnish.errors import BurnishError
from tests.onnx_suite import denied
from tests.onnx_suite.cases import Case
from tests.onnx_suite.outcome import Outcome

#: Seconds of CPU time and bytes of address space of a case; the real networks get more.
LIMITS = {"real": (180, 8 << 30)}
DEFAULT_LIMIT = (40, 4 << 30)


class WrongResultError(Exception):
    """An output that is not what the case expects."""


def limit(kind: str) -> None:
    """Set the limits of this process."""
    seconds, memory = LIMITS.get(kind, DEFAULT_LIMIT)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class InexactCaseError(Exception):
    """An output that is within the wider tolerance of a case whose stored outputs are inexact."""


def run_case(case: Case, folder: Path, inexact: denied.Inexact | None = None) -> Outcome:
    """Compile, run and judge a case; an artifact is written to ``folder``."""
    stage = "compile"
    try:
        model = case.model()
        path = _compile(case, model, folder)
        stage = "run"
        _run(case, model, path, inexact)
    except InexactCaseError as error:
        return Outcome("inexact", str(error))
    except WrongResultError as error:
        return Outcome("wrong", str(error))
    except BurnishError as error:
        refused = stage == "compile" and error.exit_code in (3, 4)
        text = f"{type(error).__name__} (exit {error.exit_code}, {stage}): {error}"
        return Outcome("refused" if refused else "failed", text)
    except MemoryError:
        return Outcome("failed", f"out of memory ({stage})")
    except Exception:
        return Outcome("failed", f"({stage}) " + traceback.format_exc())
    return Outcome("passed")


def _compile(case: Case, model: Any, folder: Path) -> Path:
    from burnish.driver import compile_artifact
    from burnish.options import CompileOptions
    from burnish.requests import CompileRequest

    output = folder / "model.burnish"
    options = CompileOptions(threads=1)
    compile_artifact(CompileRequest(model.SerializeToString(), str(output), options))
    return output


def _run(case: Case, model: Any, path: Path, inexact: denied.Inexact | None) -> None:
    from burnish.runtime import load

    weights = {t.name for t in model.graph.initializer}
    names = [v.name for v in model.graph.input if v.name not in weights]
    with load(path, threads=1) as compiled:
        taken = {info.name for info in compiled.manifest.inputs}
        for inputs, expected in case.data_sets(model):
            feeds = {n: v for n, v in zip(names, inputs, strict=True) if n in taken}
            results = compiled.run(None, feeds)
            dtypes = [info.dtype for info in compiled.manifest.outputs]
            try:
                judge(results, dtypes, expected, case.tolerance)
            except WrongResultError as error:
                if inexact is None:
                    raise
                judge(results, dtypes, expected, (inexact.rtol, inexact.atol))
                raise InexactCaseError(str(error)) from None


def judge(
    results: list[Any], dtypes: list[str], expected: list[Any], tolerance: tuple[float, float]
) -> None:
    """Compare outputs with what a case expects: number, dtypes, shapes, values, NaN in its place.

    Args:
        results: Arrays as the runtime returns them.
        dtypes: Their element types by burnish's name.
        expected: What the case stores.
        tolerance: The case's relative and absolute tolerance.

    Raises:
        WrongResultError: They differ.
    """
    if len(results) != len(expected):
        raise WrongResultError(f"{len(results)} outputs instead of {len(expected)}")
    for index, (result, dtype, wanted) in enumerate(zip(results, dtypes, expected, strict=True)):
        problem = _difference(result, dtype, wanted, tolerance)
        if problem:
            raise WrongResultError(f"output {index}: {problem}")


def _difference(result: Any, dtype: str, wanted: Any, tolerance: tuple[float, float]) -> str | None:
    if not isinstance(wanted, np.ndarray | np.generic) or not isinstance(result, np.ndarray):
        return f"{type(result).__name__} instead of {type(wanted).__name__}"
    wanted = np.asarray(wanted)
    if dtype != wanted.dtype.name:
        return f"dtype {dtype} instead of {wanted.dtype.name}"
    if result.shape != wanted.shape:
        return f"shape {result.shape} instead of {wanted.shape}"
    if result.dtype != wanted.dtype:  # the bits of a type that numpy lacks
        result = result.view(wanted.dtype)
    if wanted.dtype.kind not in "biufc":
        result, wanted = result.astype(np.float32), wanted.astype(np.float32)
    rtol, atol = tolerance
    try:
        np.testing.assert_allclose(result, wanted, rtol=rtol, atol=atol)
    except AssertionError as error:
        return " ".join(str(error).split())
    return None


def main(case: Case, folder: Path, results: int) -> None:
    """Run a case in a forked child; writes the outcome to the pipe ``results`` and ends."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    limit(case.kind)
    inexact = {row.case: row for row in denied.read_inexact()}
    outcome = run_case(case, folder, inexact.get(case.name))
    os.write(results, outcome.encode())
    os._exit(0)
