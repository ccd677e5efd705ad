"""Models that round activations themselves are told by their operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish.check import compare
from burnish.check.quantized import rounds_activations
from tests.support.roundtrip import model

IMPORTS = ', "com.microsoft" : 1'
HEAD = "g (float[4] x) => (float[4] y) <float s = {0.5}, uint8 z = {3}, float[4] w = {1,2,3,4}>"
ROUNDS = {
    "quantize": "{ q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z) }",
    "dynamic": "{ q, t, u = DynamicQuantizeLinear(x) y = DequantizeLinear(q, t, u) }",
    "contributed": """{ q = QuantizeLinear(w, s, z)
        c = com.microsoft.QLinearConcat<axis=0>(s, z, q, s, z) y = DequantizeLinear(c, s, z) }""",
}
EXACT = {
    "plain": "{ y = Add(x, w) }",
    "weights": "{ q = QuantizeLinear(w, s, z) d = DequantizeLinear(q, s, z) y = Add(x, d) }",
}


@pytest.mark.parametrize("name", [*ROUNDS, *EXACT])
def test_what_rounds(name: str, tmp_path: Path) -> None:
    proto = model(f"{HEAD} {(ROUNDS | EXACT)[name]}", 17, imports=IMPORTS)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    for form in (proto, path, str(path), proto.SerializeToString()):
        assert rounds_activations(form) == (name in ROUNDS)


def test_branches_count() -> None:
    text = """g (bool c, float[4] x) => (float[4] y) <float s = {0.5}> {
        y = If (c) <
            then_branch = a () => (float[4] p) { q = QuantizeLinear(x, s) p = DequantizeLinear(q, s) },
            else_branch = b () => (float[4] r) { r = Neg(x) }
        >
    }"""  # noqa: E501
    assert rounds_activations(model(text, 17))


class Next:
    """A model whose results are one code further than those of the reference."""

    def get_inputs(self) -> list[object]:
        """No names are asked for."""
        return []

    def get_outputs(self) -> list[onnx.ValueInfoProto]:
        """The output."""
        return [onnx.ValueInfoProto(name="y")]

    def run(self, names: object, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The last code is rounded to the other side."""
        codes = np.clip(np.rint(feeds["x"] / np.float32(0.5)) + 3, 0, 255)
        return [((codes - 3) * 0.5 + [0, 0, 0, 0.5]).astype(np.float32)]


def test_codes_beside_the_reference_pass_only_if_it_rounds() -> None:
    inputs = {"x": np.array([5, 20, -1, 9.01], np.float32)}
    assert compare(Next(), model(f"{HEAD} {ROUNDS['quantize']}", 17), inputs).passed
    assert not compare(Next(), model(f"{HEAD} {{ y = Identity(x) }}", 17), inputs).passed
