"""A load beside what is measured, and models whose work is a known multiple of another's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Works and rests in turns of irregular length, as other jobs of a shared machine do.
_BURN = """
import random, time
random.seed({seed})
while True:
    end = time.perf_counter() + random.expovariate(1 / 0.05)
    while time.perf_counter() < end:
        pass
    time.sleep(random.expovariate(1 / 0.02))
"""


@contextmanager
def cpu_load(processes: int = 2) -> Iterator[None]:
    """Processes that compete for the CPUs while the block runs."""
    started = [
        subprocess.Popen([sys.executable, "-c", _BURN.format(seed=i)]) for i in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def chain(layers: int, rows: int = 64, width: int = 256) -> onnx.ModelProto:
    """A network of equal layers (matrix product, ReLU) with weights of their own.

    A model with 12 layers does exactly a fifth more work than one with 10.
    """
    rng = np.random.default_rng(4)
    weights = [
        numpy_helper.from_array(
            (rng.standard_normal((width, width)) * (2 / width) ** 0.5).astype(np.float32), f"w{i}"
        )
        for i in range(layers)
    ]
    nodes = []
    for i in range(layers):
        nodes.append(helper.make_node("MatMul", [f"h{i}" if i else "x", f"w{i}"], [f"p{i}"]))
        last = "y" if i == layers - 1 else f"h{i + 1}"
        nodes.append(helper.make_node("Relu", [f"p{i}"], [last]))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
