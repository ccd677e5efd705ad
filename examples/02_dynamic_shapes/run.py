"""Compile a transformer block with symbolic batch and sequence once, run it at any size."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx.parser

import burnish

WIDTH, HEADS, VOCABULARY = 64, 4, 100
SIZES = [(1, 1), (1, 7), (2, 37), (5, 128)]
BLOCK = """
<ir_version: 8, opset_import: ["": 17]>
block (int64[batch, sequence] ids, float[batch, sequence] mask)
   => (float[batch, sequence, 64] y)
<int64[4] split = {0, 0, 4, 16}, int64[3] join = {0, 0, 64}, int64[2] inner = {1, 2},
 float one = {1}, float far = {-10000}, float quarter = {0.25}, float half = {0.5},
 float root = {1.4142135}>
{
    x = Gather(table, ids)
    a = LayerNormalization<axis = -1>(x, gain, shift)
    q = MatMul(a, wq)
    k = MatMul(a, wk)
    v = MatMul(a, wv)
    q4 = Reshape(q, split)
    k4 = Reshape(k, split)
    v4 = Reshape(v, split)
    qh = Transpose<perm = [0, 2, 1, 3]>(q4)
    kt = Transpose<perm = [0, 2, 3, 1]>(k4)
    vh = Transpose<perm = [0, 2, 1, 3]>(v4)
    scores = MatMul(qh, kt)
    scaled = Mul(scores, quarter)
    padding = Sub(one, mask)
    bias = Mul(padding, far)
    bias4 = Unsqueeze(bias, inner)
    masked = Add(scaled, bias4)
    weights = Softmax<axis = -1>(masked)
    mixed = MatMul(weights, vh)
    back = Transpose<perm = [0, 2, 1, 3]>(mixed)
    joined = Reshape(back, join)
    out = MatMul(joined, wo)
    x1 = Add(x, out)
    b = LayerNormalization<axis = -1>(x1, gain, shift)
    up = MatMul(b, w1)
    ratio = Div(up, root)
    erf = Erf(ratio)
    erf1 = Add(erf, one)
    gated = Mul(up, erf1)
    gelu = Mul(gated, half)
    down = MatMul(gelu, w2)
    y = Add(x1, down)
}
"""


def build() -> onnx.ModelProto:
    """The block with seeded random weights."""
    rng = np.random.default_rng(0)
    shapes = {
        "table": (VOCABULARY, WIDTH),
        **dict.fromkeys(("wq", "wk", "wv", "wo"), (WIDTH, WIDTH)),
        "w1": (WIDTH, 4 * WIDTH),
        "w2": (4 * WIDTH, WIDTH),
    }
    weights = {
        name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()
    }
    weights["table"] *= np.sqrt(VOCABULARY)
    weights["gain"] = rng.normal(1, 0.1, WIDTH)
    weights["shift"] = rng.normal(0, 0.1, WIDTH)
    model = onnx.parser.parse_model(BLOCK)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(np.float32), name)
        for name, array in weights.items()
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def draw(batch: int, sequence: int) -> dict[str, np.ndarray]:
    """Token ids, and a mask that pads the end of every row but the first."""
    rng = np.random.default_rng(batch * 1000 + sequence)
    lengths = rng.integers(1, sequence + 1, batch)
    lengths[0] = sequence
    mask = np.arange(sequence) < lengths[:, None]
    ids = rng.integers(0, VOCABULARY, (batch, sequence))
    return {"ids": ids, "mask": mask.astype(np.float32)}


def main() -> int:
    """Run the example; the exit code is 0 if every size is right."""
    source = build()
    model = burnish.compile(source, target="x86", threads=1)
    print("inputs:", ", ".join(f"{i.name} {i.shape}" for i in model.get_inputs()))
    passed = True
    for batch, sequence in SIZES:
        report = burnish.compare(model, source, draw(batch, sequence))
        (y,) = report.outputs
        verdict = "equal" if report else "DIFFERS"
        print(f"{batch} x {sequence}: output {list(y.shape)}, max error {y.max_abs:.1e}, {verdict}")
        passed &= report.passed

    clash = draw(2, 7) | {"mask": draw(2, 8)["mask"]}
    try:
        model.run(None, clash)
    except burnish.BurnishError as error:
        print(f"refused: {error}")
    else:
        print("an input with two values for 'sequence' was not refused")
        passed = False
    return 0 if passed else 10


if __name__ == "__main__":
    sys.exit(main())
