"""How fast products read weights in 4 and 8 bits, beside onnxruntime's MatMulNBits.

``python -m tests.bench.weight_only [--threads N] [--rows M] [SHAPE ...]`` builds a model of one
product for each shape (``4096x11008``: rows by columns of the weights), and calls burnish and
onnxruntime in turns. Before each call the caches are swept: in a decoder the weights of a product
come from memory, since those of all others were read in between. ``768x3072*24`` is a chain of 24
products, of 768x3072 and 3072x768 in turns, each with weights of its own: small products as a model
has them, where the cost of a call is shared. It prints the bytes of weights, scales and zero points
that a second reads, and their share of the measured read bandwidth.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import burnish
from burnish.bench.roofline import measure_roofline

SHAPES = ("4096x4096", "4096x11008", "768x32000", "768x3072", "768x3072*24")
#: onnxruntime's accuracy levels: float32, and activations in 8 bits.
LEVELS = (1, 4)
#: Larger than the last cache.
_SWEPT = 128 << 20


@dataclass(frozen=True)
class Row:
    """One product, or one chain of them.

    Attributes:
        shape: Of the weights; see :func:`chain`.
        bits: Of a weight.
        nbytes: Of weights, scales and zero points.
        ms: Shortest time of a call, by runner.
        share: Of the read bandwidth, by runner.
    """

    shape: str
    bits: int
    nbytes: int
    ms: dict[str, float]
    share: dict[str, float]


def chain(shape: str) -> list[tuple[int, int]]:
    """Rows and columns of the weights of each product: ``KxN``, or ``KxN*COUNT``."""
    size, _, count = shape.partition("*")
    k, n = map(int, size.split("x"))
    return [(k, n) if i % 2 == 0 else (n, k) for i in range(int(count or 1))]


def model_of(
    sizes: Sequence[tuple[int, int]], bits: int, block: int, level: int
) -> onnx.ModelProto:
    """Products one after the other, with random weights whose middle stands for 0."""
    rng = np.random.default_rng(sum(sizes[0]))
    nodes, constants = [], []
    for i, (k, n) in enumerate(sizes):
        blocks = -(-k // block)
        w = rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)
        scale = rng.uniform(0.5, 1.5, n * blocks).astype(np.float32) / np.float32(2**bits * k**0.5)
        constants += [numpy_helper.from_array(w, f"w{i}"), numpy_helper.from_array(scale, f"s{i}")]
        node = helper.make_node(
            "MatMulNBits", [f"x{i}", f"w{i}", f"s{i}"], [f"x{i + 1}"], domain="com.microsoft",
            K=k, N=n, bits=bits, block_size=block, accuracy_level=level,
        )  # fmt: skip
        nodes.append(node)
    graph = helper.make_graph(
        nodes, "products",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, ["m", sizes[0][0]])],
        [helper.make_tensor_value_info(f"x{len(sizes)}", TensorProto.FLOAT, ["m", sizes[-1][1]])],
        constants,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def measure(
    shape: str, bits: int, *, threads: int, rows: int, calls: int, bandwidth: float, block: int = 32
) -> Row:
    """Time one product, or one chain of them, in turns."""
    sizes = chain(shape)
    x = np.random.default_rng(1).standard_normal((rows, sizes[0][0]), dtype=np.float32)
    feeds = {"x0": x}
    runs: dict[str, Callable[[Any, Any], Any]] = {
        "burnish": burnish.compile(model_of(sizes, bits, block, 0), threads=threads).run
    }
    for level in LEVELS:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        model = model_of(sizes, bits, block, level).SerializeToString()
        runs[f"onnxruntime level {level}"] = ort.InferenceSession(model, options).run
    swept = np.ones(_SWEPT // 4, np.float32)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(calls):
        for name, run in runs.items():
            swept.sum()
            start = time.perf_counter()
            run(None, feeds)
            times[name].append(time.perf_counter() - start)
    nbytes = sum(n * -(-k // block) * (block * bits // 8 + 4) for k, n in sizes)
    best = {name: min(taken) for name, taken in times.items()}
    return Row(
        shape,
        bits,
        nbytes,
        {name: 1e3 * taken for name, taken in best.items()},
        {name: nbytes / taken / bandwidth for name, taken in best.items()},
    )


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--bits", type=int, choices=(4, 8), action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    bandwidth = measure_roofline(given.threads).bandwidth
    found = [
        measure(
            shape, bits, threads=given.threads, rows=given.rows, calls=given.calls,
            bandwidth=bandwidth,
        )
        for bits in given.bits or (4, 8)
        for shape in given.shapes
    ]  # fmt: skip
    if given.json:
        print(json.dumps([asdict(row) for row in found], indent=2))
        return found
    print(f"{given.threads} threads, {given.rows} rows, {bandwidth / 1e9:.1f} GB/s")
    for row in found:
        parts = [f"{name} {ms:.3f} ms {row.share[name]:.0%}" for name, ms in row.ms.items()]
        print(f"{row.shape} {row.bits} bits: {', '.join(parts)}", flush=True)
    return found


if __name__ == "__main__":
    main()
