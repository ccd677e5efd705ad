"""Compile, compare and time the zoo: ``python -m tests.bench [MODEL ...]``.

Prints one line for each model, writes the results as JSON where ``--json`` says, and its section of
``tests/bench/RESULTS.md`` when all of the zoo was measured. With ``--check`` it exits
1 if anything is beyond its limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.limits import geomean, ratio, violations
from tests.bench.results import describe_run, markdown, with_section
from tests.models import ALL, ZOO, ModelUnavailable, model_path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("RESULTS.md")


def run_child(step: str, name: str, artifact: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one step of one model in a process of its own.

    Raises:
        RuntimeError: It failed, with the end of what it said.
    """
    command = [sys.executable, "-m", "tests.bench.child", step, name, str(artifact)]
    for option in ("threads", "duration", "warmup", "against"):
        command += [f"--{option}", str(getattr(options, option))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(f"{step} failed: {lines[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_model(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table; a failure becomes a row as well."""
    row: dict[str, Any] = {"model": name}
    try:
        model_path(name)
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            artifact = Path(folder) / f"{name}.burnish"
            row |= run_child("compile", name, artifact, options)
            row |= run_child("time", name, artifact, options)
    except (RuntimeError, ModelUnavailable) as error:
        row["error"] = str(error)
    return row


def summary(row: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "error" in row:
        return f"{row['model']:16} {row['error']}"
    times = "  ".join(
        f"{t['runner']} {t['min_ms']:.3f}/{t['median_ms']:.3f} ms" for t in row["bench"]["timings"]
    )
    verdict = "equal" if row["equal"] else "DIFFERS"
    return (
        f"{row['model']:16} {ratio(row):5.2f}x  {times}  compile {row['compile_s']:.1f} s "
        f"{row['peak_bytes'] / 1e6:.0f} MB  {verdict}"
    )


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: the whole zoo")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds of calls of each")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument(
        "--against", default="onnxruntime,openvino", help="onnxruntime, openvino or both"
    )
    parser.add_argument("--json", type=Path, help="where the results go")
    parser.add_argument("--check", action="store_true", help="fail beyond the limits")
    options = parser.parse_args()
    unknown = sorted(set(options.models) - set(ALL))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(ALL)}")
    return options


def main() -> int:
    """Measure what was asked for."""
    options = parse()
    # Where the results go is no part of how they came about.
    spelled = [f"--{n} {getattr(options, n)}" for n in ("threads", "duration", "against")]
    command = " ".join(["python -m tests.bench", *spelled, *options.models])
    run = describe_run(command, options.threads)
    rows = []
    for name in options.models or ZOO:
        rows.append(measure_model(name, options))
        print(summary(rows[-1]), flush=True)
    timed = [row for row in rows if "error" not in row]
    if timed:
        print(f"geometric mean {geomean(timed):.3f} over {len(timed)} models")
    if options.json:
        options.json.write_text(json.dumps({**run, "rows": rows}, indent=1) + "\n")
    if not options.models:
        TABLE.write_text(with_section(TABLE.read_text(), markdown(run, rows)))
        print(f"wrote {TABLE}")
    beyond = violations(rows)
    for line in beyond:
        print(f"beyond a limit: {line}", file=sys.stderr)
    return 1 if beyond and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
