"""Products of stored weights that rather multiply 16 bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from burnish.importers import load
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from tests.support.roundtrip import model as parse

GRAPH = """
g (float[{rows},64] x) => (float[{rows},32] y) {{
  d = DequantizeLinear<axis=1>(w, s)
  y = MatMul(x, d)
}}"""


def products(rows: str, precision: str, *, short: bool, kind: str = "int8") -> set[str]:
    """Operators that are left of a product, whose weights may have been folded."""
    proto = parse(GRAPH.format(rows=rows))
    rng = np.random.default_rng(0)
    codes = rng.integers(-7, 8, (64, 32)).astype(np.int8)
    if kind == "int4":
        raw = onnx.helper.make_tensor("w", onnx.TensorProto.INT4, codes.shape, codes.reshape(-1))
    else:
        raw = onnx.numpy_helper.from_array(codes, "w")
    scale = (rng.random(32) + 0.5).astype(np.float32)
    proto.graph.initializer.extend([raw, onnx.numpy_helper.from_array(scale, "s")])
    graph = load(proto)
    passes = pipeline(3, precision=precision, weight_only=True, short_products=short)
    PassManager(passes).run(graph, PassContext())
    return {node.op for node in graph.walk() if "MatMul" in node.op}


@pytest.mark.parametrize(
    ("rows", "precision", "short", "kind", "left"),
    [
        ("128", "bf16", True, "int8", "MatMul"),
        ("4", "bf16", True, "int8", "MatMulNBits"),
        ("N", "bf16", True, "int8", "MatMul"),
        ("N", "bf16", True, "int4", "MatMulNBits"),
        ("128", "bf16", True, "int4", "MatMul"),
        ("128", "bf16", False, "int8", "MatMulNBits"),
        ("128", "fp32", True, "int8", "MatMulNBits"),
    ],
)
def test_many_rows_multiply_16_bits(
    rows: str, precision: str, short: bool, kind: str, left: str
) -> None:
    assert products(rows, precision, short=short, kind=kind) == {left}
