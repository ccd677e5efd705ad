"""One model, in a process of its own so that its memory is its own.

``python -m tests.bench.child compile NAME DEST`` compiles it; ``python -m tests.bench.child time
NAME ARTIFACT ...`` compares and times it. Both print one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import burnish
from burnish.bench import bench
from burnish.check import compare
from tests.models import ALL, feeds, model_path


def compile_model(name: str, artifact: str) -> dict[str, Any]:
    """Compile cold, and say how long it took and what memory it needed."""
    path = model_path(name)
    start = time.perf_counter()
    model = burnish.compile(path, target="x86", threads=1)
    seconds = time.perf_counter() - start
    model.save(artifact)
    model.close()
    # Compilation runs in a worker. Its peak and this process's need not coincide: an upper bound.
    peak = sum(
        resource.getrusage(who).ru_maxrss * 1024
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return {"compile_s": seconds, "peak_bytes": peak, "model_bytes": path.stat().st_size}


def time_model(name: str, artifact: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compare with the reference, then time beside the peers."""
    model, path = ALL[name], model_path(name)
    inputs = feeds(model)
    with burnish.load(artifact, threads=options.threads) as compiled:
        report = compare(compiled, path, inputs)
        result = bench(
            compiled,
            path,
            against=options.against.split(","),
            inputs=inputs,
            duration=options.duration,
            warmup=options.warmup,
        )
    return {"equal": report.passed, "comparison": report.to_dict(), "bench": result.to_dict()}


def main() -> None:
    """Run one step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("compile", "time"))
    parser.add_argument("model", choices=sorted(ALL))
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=5.0)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--against", default="onnxruntime,openvino")
    options = parser.parse_args()
    if options.step == "compile":
        found = compile_model(options.model, str(options.artifact))
    else:
        found = time_model(options.model, str(options.artifact), options)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
