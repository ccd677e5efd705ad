"""Compile models with a backend of one's own, and compare the results with onnxruntime."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import onnx.parser

import burnish

HERE = Path(__file__).resolve().parent
TEXT_DIRECTION = HERE.parent / "01_compile_and_check" / "text_direction.onnx"
#: Two layers and a norm, over any number of rows.
PERCEPTRON = """
<ir_version: 10, opset_import: ["" : 21]>
perceptron (float[rows,24] x) => (float[rows,5] y) {
    scale = Constant <value = float[24] {SCALE}> ()
    n = LayerNormalization(x, scale)
    w1 = Constant <value = float[24,32] {W1}> ()
    h = MatMul(n, w1)
    a = Gelu(h)
    w2 = Constant <value = float[32,5] {W2}> ()
    z = MatMul(a, w2)
    y = Softmax <axis = -1> (z)
}
"""


def perceptron() -> onnx.ModelProto:
    """The model above with weights."""
    rng = np.random.default_rng(0)
    text = PERCEPTRON
    for name, size in (("SCALE", 24), ("W1", 24 * 32), ("W2", 32 * 5)):
        numbers = ", ".join(f"{value:.6f}" for value in rng.normal(0, 0.3, size))
        text = text.replace(f"{{{name}}}", f"{{{numbers}}}")
    return onnx.parser.parse_model(text)


def main() -> None:
    # An installed backend is found by its entry point; one that only lies somewhere is named.
    sys.path.insert(0, str(HERE))
    os.environ["BURNISH_BACKENDS"] = "c_backend:C"
    rng = np.random.default_rng(1)
    perceptrons = [{"x": rng.normal(size=(rows, 24)).astype(np.float32)} for rows in (1, 7, 100)]
    for name, model, inputs in (
        ("text direction", TEXT_DIRECTION, None),
        ("perceptron", perceptron(), perceptrons),
    ):
        compiled = burnish.compile(model, target="c")
        burnish.compare(compiled, model, inputs).raise_if_failed()
        nodes = compiled.manifest.nodes
        own = sum(node.op == "burnish::MatMul" for node in nodes)
        calls = f"{len(nodes)} kernel calls, {own} of this backend's MatMul"
        print(f"{name}: {calls}: equal to onnxruntime")


if __name__ == "__main__":
    main()
