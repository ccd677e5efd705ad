"""What a call and a kernel cost beside their work: ``python -m tests.bench.overhead``.

Times graphs of almost no work from Python on one thread, and prints the minimum and the median of
a call: an Identity, a chain of one small elementwise node, and a chain of a hundred that are kept
from being fused, whose difference is the cost of a node.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import onnx
from onnx import TensorProto, helper

import burnish

#: Elements of every tensor.
WIDTH = 16
#: Nodes of the long chain.
LENGTH = 100
_OPERATORS = ("Tanh", "Sin")


def chain(nodes: int) -> onnx.ModelProto:
    """Elementwise nodes one after the other, which no rewriting makes fewer; 0 for an Identity."""
    made = [
        helper.make_node(_OPERATORS[i % 2], [f"t{i}"], [f"t{i + 1}"]) for i in range(nodes)
    ] or [helper.make_node("Identity", ["t0"], ["t1"])]
    graph = helper.make_graph(
        made,
        "chain",
        [helper.make_tensor_value_info("t0", TensorProto.FLOAT, [WIDTH])],
        [helper.make_tensor_value_info(made[-1].output[0], TensorProto.FLOAT, [WIDTH])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


def compile_chain(nodes: int) -> burnish.CompiledModel:
    """The chain, compiled so that every node is a kernel of its own."""
    model = burnish.compile(
        chain(nodes), target="x86", threads=1, skip_passes=("fuse-elementwise",), check=False
    )
    if len(model.manifest.nodes) != max(nodes, 1):
        raise RuntimeError(f"{len(model.manifest.nodes)} kernels for {nodes} nodes")
    return model


def time_calls(model: burnish.CompiledModel, seconds: float) -> tuple[float, float]:
    """Minimum and median seconds of a call, from means of ten."""
    feeds = {"t0": np.linspace(-1, 1, WIDTH, dtype=np.float32)}
    run, clock, taken = model.run, time.perf_counter, []
    end = clock() + seconds
    while clock() < end:
        begin = clock()
        for _ in range(10):
            run(None, feeds)
        taken.append((clock() - begin) / 10)
    return min(taken), float(np.median(taken))


def measure(seconds: float) -> dict[str, tuple[float, float]]:
    """Minimum and median, in seconds: of an empty graph, of one node, and what each node adds."""
    models = {nodes: compile_chain(nodes) for nodes in (0, 1, LENGTH)}
    times = {nodes: time_calls(model, seconds) for nodes, model in models.items()}
    for model in models.values():
        model.close()
    low, mid = (
        (many - one) / (LENGTH - 1) for many, one in zip(times[LENGTH], times[1], strict=True)
    )
    return {"empty graph": times[0], "one node": times[1], "each further node": (low, mid)}


def main() -> None:
    """Print the table, or one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description=__doc__)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds for each graph")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.duration)
    if options.json:
        print(
            json.dumps(
                {name: {"min_us": a * 1e6, "median_us": b * 1e6} for name, (a, b) in found.items()}
            )
        )
        return
    for name, (low, mid) in found.items():
        print(f"{name:20} {low * 1e6:6.2f} us, median {mid * 1e6:6.2f} us")


if __name__ == "__main__":
    main()
