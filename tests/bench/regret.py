"""How far the cost table is from what was measured: ``python -m tests.bench.regret [MODEL ...]``.

Compiles models with ``--tune`` and prints, for every problem that the cost table misjudged, its
choice, the best one, and what that costs in one run of the model. Times of a busy machine mean
little; with ``--cache-dir``, what was measured before is not measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import burnish
from tests.models import ZOO, model_path


def regret(tuning: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for each problem that the cost table misjudged, the most expensive first.

    Args:
        tuning: A ``TuningReport`` as plain data.

    Returns:
        Rows with the problem, the number of its nodes, the table's tactic and time, the best ones,
        and the loss in microseconds and as a share of all problems' time.
    """
    total = sum(p["nodes"] * (p["table_us"] or 0.0) for p in tuning["problems"])
    rows = [
        {
            "problem": p["problem"],
            "nodes": p["nodes"],
            "table": p["table"],
            "table_us": p["table_us"],
            "best": p["chosen"],
            "best_us": p["chosen_us"],
            "loss_us": p["gain_us"],
            "loss": p["gain_us"] / total,
        }
        for p in tuning["problems"]
        if p["chosen"] != p["table"]
    ]
    return sorted(rows, key=lambda row: float(-row["loss_us"]))


def lines(name: str, tuning: Mapping[str, Any]) -> Iterator[str]:
    """The rows of a model as text, and their sum."""
    rows = regret(tuning)
    for row in rows:
        yield (
            f"{row['loss']:7.2%} {row['nodes']:3} x {row['table']} {row['table_us']:.1f} us, "
            f"best {row['best']} {row['best_us']:.1f} us: {row['problem']}"
        )
    unmeasured = sum(len(p["unmeasured"]) for p in tuning["problems"])
    yield (
        f"{name}: the cost table loses {sum(row['loss'] for row in rows):.2%} in {len(rows)} of "
        f"{len(tuning['problems'])} problems; {unmeasured} tactics not measured"
        + (f"; {tuning['verdict']}" if tuning["verdict"] else "")
    )


def main() -> None:
    """Measure the models of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.regret", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(ZOO), metavar="MODEL", help="or a file")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each model")
    parser.add_argument("--cache-dir", help="keep times and kernels there")
    parser.add_argument("--json", help="write the tunings there")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="burnish-regret-") as folder:
        for name in options.models:
            path = Path(name) if name.endswith(".onnx") else model_path(name)
            report = burnish.compile_to(
                path,
                Path(folder) / "model.burnish",
                overwrite=True,
                threads=options.threads,
                tune=True,
                tune_seconds=options.seconds,
                cache_dir=options.cache_dir or folder,
            )
            assert report.tuning is not None
            found[name] = report.tuning
            for line in lines(name, report.tuning):
                print(line, flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
