"""Sizes that depend on data, and a loop, on an emulated ARM core: read by the same native code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from tests.support.qemu import emulator, load

pytestmark = pytest.mark.slow

MODEL = """<ir_version: 10, opset_import: ["": 23]>
g (float[n,4] x, int64[2] s, int64 trips)
    => (float[a,b] reshaped, float[m] positive, float[k,4] stacked, float[p,4] sorted)
    <float[1] zero = {0.0}> {
    e = Exp(x)
    reshaped = Reshape(e, s)
    mask = Greater(x, zero)
    flat = Constant<value_ints = [-1]>()
    mask_flat = Reshape(mask, flat)
    positive = Compress(x, mask_flat)
    sorted, first, back, count = Unique<axis = 0>(x)
    index = Constant<value_int = 0>()
    row = Gather<axis = 0>(x, index)
    last, stacked = Loop(trips, , row) <body = b (int64 i, bool c, float[4] v)
        => (bool d, float[4] f, float[4] g) { d = Identity(c) t = Tanh(v) f = Add(t, row)
        g = Neg(f) }>
}"""


def test_equal_to_onnxruntime(tmp_path: Path) -> None:
    emulator()
    model = onnx.parser.parse_model(MODEL)
    path = tmp_path / "model.burnish"
    options = CompileOptions(target="arm", verify_ir=True)
    compile_artifact(CompileRequest(model.SerializeToString(), str(path), options))
    reference = onnxruntime.InferenceSession(model.SerializeToString())
    emulated = load(path, "cortex-a53")
    for size, shape, trips in ((3, (2, -1), 4), (5, (0, 4), 1)):
        feeds = {
            "x": np.random.default_rng(size).integers(-3, 4, (size, 4)).astype(np.float32),
            "s": np.array(shape),
            "trips": np.array(trips),
        }
        wanted = reference.run(None, feeds)
        for found, expected in zip(emulated.run(None, feeds), wanted, strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
