"""How much of the machine's arithmetic models use.

``python -m tests.bench.efficiency [MODEL ...]`` compiles each model, times and profiles it, and
prints its operations, its time and the share of this machine's measured peak that it reaches: over
the whole model, and inside its products and convolutions. Operations are those of the model: what
borders or a faster algorithm save counts as if it had been done, so that a convolution may be
beyond 100 %.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import burnish
from burnish.bench.profile import Step, profile
from burnish.bench.roofline import measure_roofline
from tests.models import ALL, feeds, model_path

MODELS = ("resnet50", "bert", "vit")
PRODUCTS = ("burnish::Conv", "burnish::MatMul", "burnish::BatchMatMul", "MatMul")
"""The composites that are products or convolutions."""


@dataclass(frozen=True)
class Efficiency:
    """What one model reaches.

    Attributes:
        model: Its name.
        threads: Threads of a call.
        gflop: Operations of the model, in 10^9.
        ms: Shortest time of a call.
        peak: Operations a second of the machine, in 10^9.
        whole: Share of the peak over the call.
        products: Share of the peak inside the products and convolutions.
        part: Their part of the time in kernels.
    """

    model: str
    threads: int
    gflop: float
    ms: float
    peak: float
    whole: float
    products: float
    part: float

    def row(self) -> str:
        """A row of a table in Markdown."""
        return (
            f"| {self.model} | {self.gflop:.2f} | {self.ms:.2f} | {self.whole:.1%} "
            f"| {self.products:.1%} | {self.part:.1%} |"
        )


HEADER = """| model | GFLOP | ms | of the peak | in products | their time |
|---|---:|---:|---:|---:|---:|"""


def measure(name: str, artifact: Path, threads: int, seconds: float, runs: int) -> Efficiency:
    """Time and profile one compiled model. The peak is the best of before and after."""
    inputs, times = feeds(ALL[name]), []
    before = measure_roofline(threads).rates["fp32"]
    with burnish.load(artifact, threads=threads) as compiled:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            begin = time.perf_counter()
            compiled.run(None, inputs)
            times.append(time.perf_counter() - begin)
        steps = profile(compiled, inputs, runs=runs).steps
    peak = max(before, measure_roofline(threads).rates["fp32"])
    products = [step for step in steps if step.node and step.node.op in PRODUCTS]
    inside = sum(step.seconds for step in products)
    return Efficiency(
        name,
        threads,
        _operations(steps) / 1e9,
        min(times) * 1e3,
        peak / 1e9,
        _operations(steps) / min(times) / peak,
        _operations(products) / inside / peak,
        inside / sum(step.seconds for step in steps),
    )


def _operations(steps: Iterable[Step]) -> int:
    return sum(step.flops or 0 for step in steps)


def compiled_at(name: str, folder: Path) -> Path:
    """The artifact of a model in a folder, compiled if it is not there."""
    artifact = folder / f"{name}.burnish"
    if not artifact.exists():
        burnish.compile(model_path(name), target="x86", threads=1).save(str(artifact))
    return artifact


def main() -> None:
    """Print a table, or a line of JSON for each model."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.efficiency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=5.0, help="seconds for each model")
    parser.add_argument("--runs", type=int, default=20, help="runs that are profiled")
    parser.add_argument("--artifacts", type=Path, help="use and keep artifacts in this folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.models) - set(ALL):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as temporary:
        folder = options.artifacts or Path(temporary)
        artifacts = {name: compiled_at(name, folder) for name in options.models}
        rows = [
            measure(name, artifact, options.threads, options.duration, options.runs)
            for name, artifact in artifacts.items()
        ]
    if options.json:
        print(*(json.dumps(asdict(row)) for row in rows), sep="\n")
        return
    peak = max(row.peak for row in rows)
    print(f"{options.threads} thread(s), peak {peak:.0f} GFLOP/s\n\n{HEADER}")
    print(*(row.row() for row in rows), sep="\n")


if __name__ == "__main__":
    main()
