"""The checks on the machine: equality, times, kernels. Needs numpy, burnish's runtime and a GPU.

``run.sh`` starts it; the results lie in ``results.json`` beside it afterwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.runtime import CompiledModel, load
from tests.gpu import compact, peers

#: Below this scale an output would be judged by its own noise.
_SCALE_FLOOR = 1e-6
_WARM_UP = 5
_SLOWEST = 8


def main() -> int:
    """Run every case; 0 if all results are right."""
    parser = argparse.ArgumentParser(prog="run.sh", description="Check and time models on a GPU.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each measurement")
    parser.add_argument("--peer-seconds", type=float, default=300.0, help="time for torch; 0: none")
    options = parser.parse_args()
    folder: Path = options.folder
    cases = json.loads((folder / "cases.json").read_text())
    report: dict[str, Any] = {"schema_version": 1, "cases": [], "peers": []}
    for case in cases:
        report["cases"].append(_run_case(folder / "models" / case["name"], case, options.seconds))
        _print_case(report["cases"][-1])
        _write(folder, report)
    if options.peer_seconds > 0:
        for row in peers.measure(cases, options.seconds, options.peer_seconds):
            report["peers"].append(row)
            print(row, flush=True)
            _write(folder, report)
    _print_table(report)
    return 0 if all(case["passed"] for case in report["cases"]) else 1


def _write(folder: Path, report: dict[str, Any]) -> None:
    # After each case: a machine may end before all are done.
    (folder / "results.json").write_text(json.dumps(report, indent=1))


def _run_case(place: Path, case: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Everything of one artifact; an error is a result too, so that the others still run."""
    row: dict[str, Any] = {**case, "passed": False, "error": "", "outputs": []}
    try:
        compact.restore(place / "model.burnish")
        with load(place / "model.burnish") as model:
            for index in range(len(case["sizes"])):
                row["outputs"] += _compare(model, place, index, case["bounds"])
            feeds = dict(np.load(place / "inputs0.npz"))
            row["milliseconds"] = median_ms(lambda: model.run(None, feeds), seconds)
            row["kernels"], row["kernels_ms"] = _kernels(model, feeds)
            row["memory"] = model.memory
        row["outputs"] += _run_program(place, case["bounds"])
        row["passed"] = all(output["passed"] for output in row["outputs"])
    except Exception as error:  # reported as this case's result
        row["error"] = f"{type(error).__name__}: {error}"
    return row


def _compare(
    model: CompiledModel, place: Path, index: int, bounds: dict[str, dict[str, float]]
) -> list[dict[str, Any]]:
    """The outputs at one size beside onnxruntime's; twice, since a second run finds old memory."""
    feeds = dict(np.load(place / f"inputs{index}.npz"))
    expected = dict(np.load(place / f"expected{index}.npz"))
    rows = []
    for attempt in range(2):
        found = dict(
            zip([o.name for o in model.get_outputs()], model.run(None, feeds), strict=True)
        )
        for name, wanted in expected.items():
            row = compare_output(found[name], wanted, bounds[name])
            rows.append({"name": name, "size": index, "attempt": attempt, **row})
    return rows


def _run_program(place: Path, bounds: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """The outputs of the C++ runner, a program without Python, on the first inputs."""
    program = place.parent.parent / "bin" / "burnish_run"
    with tempfile.TemporaryDirectory() as work:
        arguments = []
        for name, data in np.load(place / "inputs0.npz").items():
            file = Path(work, f"in{len(arguments)}.npy")
            np.save(file, data)
            arguments.append(f"{name}={file}")
        command = [str(program), str(place / "model.burnish"), *arguments, "-o", work]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = []
        for name, wanted in np.load(place / "expected0.npz").items():
            row = compare_output(np.load(Path(work, f"{name}.npy")), wanted, bounds[name])
            rows.append({"name": name, "size": 0, "attempt": "burnish_run", **row})
        return rows


def compare_output(
    found: npt.NDArray[Any], wanted: npt.NDArray[Any], bound: dict[str, float]
) -> dict[str, Any]:
    """Whether ``|d| <= atol * scale + rtol * |wanted|`` and ``rms(d) <= rms * scale``.

    The rule and the bounds of ``burnish.check.tolerances``, which needs onnx.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return {"passed": False, "max_error": None, "rms_error": None, "scale": None}
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    scale = max(float(np.sqrt(np.mean(b * b))), _SCALE_FLOOR)
    error = np.abs(a - b)
    rms = float(np.sqrt(np.mean(error * error)))
    # A NaN fails: no comparison with it is true.
    near = bool(np.all(error <= bound["atol"] * scale + bound["rtol"] * np.abs(b)))
    return {
        "passed": near and rms <= bound["rms"] * scale,
        "max_error": float(error.max()) / scale,
        "rms_error": rms / scale,
        "scale": scale,
    }


def median_ms(call: Callable[[], object], seconds: float) -> float:
    """Median wall time of a call that waits for its result, in milliseconds."""
    for _ in range(_WARM_UP):
        call()
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 10 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def _kernels(model: CompiledModel, feeds: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """The kernels that take longest, and the time of all, from the device's own clock."""
    model.profile(feeds)
    calls = model.profile(feeds)
    total: dict[str, tuple[float, int]] = {}
    for call in calls:
        spent, count = total.get(call.name, (0.0, 0))
        total[call.name] = (spent + call.duration_us, count + 1)
    rows = [
        {"name": name, "microseconds": spent, "calls": count}
        for name, (spent, count) in sorted(total.items(), key=lambda item: -item[1][0])
    ]
    return rows, sum(call.duration_us for call in calls) / 1e3


def _print_case(row: dict[str, Any]) -> None:
    if row["error"]:
        print(f"{row['name']}: {row['error']}", flush=True)
        return
    worst = max((o["max_error"] or float("inf")) for o in row["outputs"])
    verdict = "equal" if row["passed"] else "DIFFERS"
    print(
        f"{row['name']}: {verdict} (worst error {worst:.1e} of the scale), "
        f"{row['milliseconds']:.3f} ms with copies, kernels {row['kernels_ms']:.3f} ms",
        flush=True,
    )
    for kernel in row["kernels"][:_SLOWEST]:
        print(f"    {kernel['microseconds']:9.1f} us {kernel['calls']:4d} x {kernel['name']}")


def _print_table(report: dict[str, Any]) -> None:
    print(f"\n{'model':<20}{'':>10}{'burnish':>10}{'kernels':>10}{'torch':>10}{'compiled':>10}")
    for row in report["cases"]:
        torch = {p["how"]: p["milliseconds"] for p in report["peers"] if p["name"] == row["name"]}
        verdict = "error" if row["error"] else "equal" if row["passed"] else "DIFFERS"
        cells = (
            row.get("milliseconds"),
            row.get("kernels_ms"),
            torch.get("eager"),
            torch.get("compiled"),
        )
        text = "".join(f"{'-' if cell is None else f'{cell:.3f}':>10}" for cell in cells)
        print(f"{row['name']:<20}{verdict:>10}{text}")
    print("milliseconds; burnish and torch with copies of inputs and outputs, kernels without")


if __name__ == "__main__":
    raise SystemExit(main())
