"""What trained models lose in 8 bits: ``python -m tests.bench.accuracy [MODEL ...]``.

Each model is compiled with ``--precision int8`` on calibration samples of its own kind, and decides
on other samples beside onnxruntime on the model as it is: labels of files, directions of text,
pixels that are text, frames that are speech, notes, and which of two recordings sounds better. For
MiniLM, the similarities of sentence pairs are compared. Prints a row for each model, and writes
them into ``tests/bench/RESULTS.md`` when all were measured. Exits 1 if a model misses its goal.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import burnish
from tests.bench.results import describe_run, with_section
from tests.models import model_path
from tests.models.decisions import MINILM, TASKS, Run, sentences, similarities

RESULTS = Path(__file__).with_name("RESULTS.md")
#: Largest change of a pair's similarity.
SIMILARITY = 0.01


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: Its name.
        calibrated: Samples that it was calibrated with.
        judged: Decisions, or pairs.
        worst: Share of equal decisions; of MiniLM, the largest change of a similarity.
        products: Kernels of products in int8, and of all products.
    """

    model: str
    calibrated: int
    judged: int
    worst: float
    products: tuple[int, int]

    @property
    def passed(self) -> bool:
        """Whether it reaches the goal."""
        if self.model == "minilm":
            return self.worst <= SIMILARITY
        return self.worst >= TASKS[self.model].goal


def original(name: str) -> Run:
    """The model as it is, on onnxruntime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model_path(name)), options)
    return lambda sample: list(session.run(None, sample))


def measure(name: str, precision: str = "int8", **options: Any) -> Row:
    """Compile a model in a lower precision, and compare what it decides.

    Args:
        name: A key of ``TASKS``, or ``minilm``.
        precision: ``int8`` or ``auto``.
        options: As :func:`burnish.compile` takes them, instead of the model's own.
    """
    task = TASKS.get(name)
    calibration = sentences() if task is None else task.samples(0, task.calibrated)
    chosen = options or (MINILM if task is None else dict(task.options))
    with burnish.compile(
        model_path(name), threads=1, precision=precision, calibration_data=calibration, **chosen
    ) as compiled:
        products = products_in_int8(compiled.manifest.nodes)

        def run(sample: dict[str, Any]) -> list[Any]:
            return [np.array(array) for array in compiled.run(None, sample)]

        if task is None:
            changes = np.abs(similarities(run) - similarities(original(name)))
            return Row(name, len(calibration), len(changes), float(changes.max()), products)
        samples, reference = task.samples(1, task.judged), original(name)
        found, wanted = [run(s) for s in samples], [reference(s) for s in samples]
    same = task.agree(found, wanted)
    return Row(name, len(calibration), len(same), float(same.mean()), products)


def products_in_int8(nodes: Any) -> tuple[int, int]:
    """Products that compute in int8, and all of them, of a manifest's nodes."""
    products = [n for n in nodes if n.kernel and ("Conv" in n.op or "MatMul" in n.op)]
    return sum(n.precision == "int8" for n in products), len(products)


def section(rows: list[Row]) -> str:
    """The rows as Markdown."""
    run = describe_run("python -m tests.bench.accuracy", threads=1)
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        "## What int8 changes on trained models",
        "",
        f"`{run['command']}`, {run['date']}. {run['machine']}. {versions}.",
        "",
        "Decisions on samples not calibrated with, beside onnxruntime at fp32; of MiniLM,",
        "the largest change of the cosine similarity of two sentences. Products are kernels.",
        "",
        "| model | calibrated with | judged | equal decisions | products in int8 |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        worst = f"change {row.worst:.4f}" if row.model == "minilm" else f"{row.worst:.2%}"
        count = f"{row.products[0]} of {row.products[1]}"
        lines.append(f"| {row.model} | {row.calibrated} | {row.judged} | {worst} | {count} |")
    return "\n".join(lines) + "\n"


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
    if not arguments.models and arguments.precision == "int8":
        RESULTS.write_text(with_section(RESULTS.read_text(), section(rows)))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
