"""What trained models lose below fp32: ``python -m tests.bench.accuracy [MODEL ...]``.

Each model is compiled with ``--precision int8`` (or ``auto``) on calibration samples of its own
kind, and decides on other samples beside onnxruntime on the model as it is: labels of files,
directions of text, pixels that are text, frames that are speech, notes, and which of two recordings
sounds better. For MiniLM, the similarities of sentence pairs are compared. Prints a row for each
model, and writes them into ``tests/bench/RESULTS.md`` when all were measured. Exits 1 if a model
misses its goal.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import burnish
from tests.bench.results import describe_run, with_section
from tests.models import model_path
from tests.models.decisions import MINILM, MINILM_AUTO, TASKS, Run, sentences, similarities

RESULTS = Path(__file__).with_name("RESULTS.md")
#: Largest change of a pair's similarity.
SIMILARITY = 0.01
#: Least share of equal decisions under ``--precision auto``.
AUTO_GOAL = 0.99


@dataclass(frozen=True)
class Found:
    """What ``--precision auto`` found.

    Attributes:
        below_fp32: Share of the operations of products that are below fp32.
        fp32_ms: Shortest call in fp32.
        auto_ms: Shortest call of what was built.
        evaluations: Ways to assign precisions that were evaluated.
        minutes: How long it took.
    """

    below_fp32: float
    fp32_ms: float
    auto_ms: float
    evaluations: int
    minutes: float


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: Its name.
        calibrated: Samples that it was calibrated with.
        judged: Decisions, or pairs.
        worst: Share of equal decisions; of MiniLM, the largest change of a similarity.
        products: Kernels of products in int8, and of all products.
        found: What ``--precision auto`` found; None at int8.
    """

    model: str
    calibrated: int
    judged: int
    worst: float
    products: tuple[int, int]
    found: Found | None = None

    @property
    def passed(self) -> bool:
        """Whether it reaches the goal."""
        if self.model == "minilm":
            return self.worst <= SIMILARITY
        return self.worst >= (TASKS[self.model].goal if self.found is None else AUTO_GOAL)


def original(name: str) -> Run:
    """The model as it is, on onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model_path(name)), options)
    return lambda sample: list(session.run(None, sample))


def measure(name: str, precision: str = "int8") -> Row:
    """Compile a model in a lower precision, and compare what it decides.

    Args:
        name: A key of ``TASKS``, or ``minilm``.
        precision: ``int8`` or ``auto``.
    """
    task = TASKS.get(name)
    calibration = sentences() if task is None else task.samples(0, task.calibrated)
    if precision == "auto":
        options = MINILM_AUTO if task is None else task.auto
    else:
        options = MINILM if task is None else task.options
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = burnish.compile_to(
            model_path(name),
            Path(folder) / "model.burnish",
            threads=1,
            precision=precision,
            calibration_data=calibration,
            **options,
        )
        found = _found(report.precision, time.perf_counter() - started)
        with burnish.load(report.output, threads=1) as compiled:
            judged, worst = _judged(name, compiled)
            products = products_in_int8(compiled.manifest.nodes)
    return Row(name, len(calibration), judged, worst, products, found)


def _found(precision: dict[str, Any] | None, seconds: float) -> Found | None:
    if precision is None:
        return None
    times = precision["seconds"]
    return Found(
        precision["below_fp32"],
        times["fp32"] * 1e3,
        times["auto"] * 1e3,
        precision["evaluations"],
        seconds / 60,
    )


def _judged(name: str, compiled: burnish.CompiledModel) -> tuple[int, float]:
    """Decisions, and the share of equal ones; of MiniLM, pairs and the largest change of one."""

    def run(sample: dict[str, Any]) -> list[Any]:
        return [np.array(array) for array in compiled.run(None, sample)]

    task, reference = TASKS.get(name), original(name)
    if task is None:
        changes = np.abs(similarities(run) - similarities(reference))
        return len(changes), float(changes.max())
    samples = task.samples(1, task.judged)
    same = task.agree([run(s) for s in samples], [reference(s) for s in samples])
    return len(same), float(same.mean())


def products_in_int8(nodes: Any) -> tuple[int, int]:
    """Products that compute in int8, and all of them, of a manifest's nodes."""
    products = [n for n in nodes if n.kernel and ("Conv" in n.op or "MatMul" in n.op)]
    return sum(n.precision == "int8" for n in products), len(products)


def section(rows: list[Row]) -> str:
    """The rows as Markdown: all at int8, or all of ``--precision auto``."""
    auto = rows[0].found is not None
    command = "python -m tests.bench.accuracy" + (" --precision auto" if auto else "")
    run = describe_run(command, threads=1)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"## What {'auto keeps' if auto else 'int8 changes'} on trained models",
        "",
        f"`{run['command']}`, {run['date']}. {run['machine']}. {versions}.",
        "",
        "Decisions on samples not calibrated with, beside onnxruntime at fp32; of MiniLM,",
        f"the largest change of the cosine similarity of two sentences. {_NOTES[auto]}",
        "",
    ]
    titles = ["model", "calibrated with", "judged", "equal decisions", *_TITLES[auto]]
    lines += ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    for row in rows:
        worst = f"change {row.worst:.4f}" if row.model == "minilm" else f"{row.worst:.2%}"
        cells = [row.model, f"{row.calibrated}", f"{row.judged}", worst, *_rest(row)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


#: By whether auto chose: what the table says beside the decisions.
_NOTES = {
    False: "Products are kernels.",
    True: "Times\nare the shortest calls of the builds that auto timed in turns, one thread.",
}
_TITLES = {
    False: ("products in int8",),
    True: ("operations below fp32", "fp32 ms", "auto ms", "evaluations", "minutes"),
}


def _rest(row: Row) -> list[str]:
    if row.found is None:
        return [f"{row.products[0]} of {row.products[1]}"]
    found = row.found
    return [
        f"{found.below_fp32:.1%}",
        f"{found.fp32_ms:.3f}",
        f"{found.auto_ms:.3f}",
        f"{found.evaluations}",
        f"{found.minutes:.1f}",
    ]


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="all if none is named")
    parser.add_argument("--precision", default="int8", choices=["int8", "auto"])
    arguments = parser.parse_args()
    names = arguments.models or ["minilm", *TASKS]
    rows = []
    for name in names:
        rows.append(measure(name, arguments.precision))
        print(rows[-1], "" if rows[-1].passed else "MISSED", flush=True)
    if not arguments.models:
        RESULTS.write_text(with_section(RESULTS.read_text(), section(rows)))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
