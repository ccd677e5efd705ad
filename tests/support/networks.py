"""Small networks of seeded weights, and some that leave the range of float16."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import numpy as np
import onnx

from tests.support.roundtrip import model as parse

CNN = """
g (float[N,3,20,20] x) => (float[N,5] y) {
  p = Transpose<perm=[0,1,3,2]>(x)
  a = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(p, w1, b1)
  b = Relu(a)
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=24>(b, w2)
  d = HardSwish(c)
  e = Conv<kernel_shape=[1,1]>(d, w3)
  f = Add(e, b)
  g = GlobalAveragePool(f)
  h = Flatten(g)
  i = MatMul(h, w4)
  y = Softmax(i)
}"""
MLP = """
g (float[N,M,32] x) => (float[N,M,32] y, float[N,M] s) {
  q = MatMul(x, a)
  k = MatMul(x, b)
  t = Transpose<perm=[0,2,1]>(k)
  z = MatMul(q, t)
  p = Softmax(z)
  v = MatMul(p, x)
  r = Add(v, x)
  n = LayerNormalization(r, gain)
  u = MatMul(n, c)
  e = Gelu(u)
  o = MatMul(e, d)
  y = Add(o, n)
  two = Mul(y, y)
  s = ReduceSum<keepdims=0>(two, last)
}"""
WEIGHTS = {
    "cnn": {"w1": (24, 3, 3, 3), "b1": (24,), "w2": (24, 1, 3, 3), "w3": (24, 24, 1, 1), "w4": (24, 5)},
    "mlp": {"a": (32, 48), "b": (32, 48), "gain": (32,), "c": (32, 100), "d": (100, 32)},
}  # fmt: skip


def network(name: str) -> onnx.ModelProto:
    """A network with seeded weights."""
    proto = parse({"cnn": CNN, "mlp": MLP}[name])
    rng = np.random.default_rng(5)
    for key, shape in WEIGHTS[name].items():
        fan = max(1, int(np.prod(shape[1:])) if name == "cnn" and len(shape) == 4 else shape[0])
        array = (rng.standard_normal(shape) / fan**0.5).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, key))
    if name == "mlp":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "last"))
    return proto


def inputs(name: str, batch: int) -> dict[str, np.ndarray]:
    shape = (batch, 3, 20, 20) if name == "cnn" else (batch, 7, 32)
    return {"x": np.random.default_rng(batch).standard_normal(shape).astype(np.float32)}


def scale(model: onnx.ModelProto, **factors: float) -> None:
    """Multiply weights, by name."""
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            array = onnx.numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


#: Graphs whose numbers leave the range of float16 on the way; what they give does not.
OVERFLOWS = {
    "pow": "a = MatMul(x, w1) b = Mul(a, big) p = Pow(b, two) r = ReduceMean<keepdims=1>(p, axis) m = Mul(r, tiny) q = MatMul(p, w2) e = Mul(q, tiny) s = Add(e, m) y = MatMul(s, w3)",
    "channel of activations": "a = MatMul(x, w1) b = MatMul(a, up) c = MatMul(b, up) d = MatMul(c, down) e = MatMul(d, down) y = MatMul(e, w3)",
    "channel of weights": "a = MatMul(x, huge) b = MatMul(a, small) c = Relu(b) y = MatMul(c, w3)",
}


def overflowing(name: str) -> onnx.ModelProto:
    """One of :data:`OVERFLOWS`, with an input x [N, 16] and an output y [N, 8]."""
    model = parse(f"g (float[N,16] x) => (float[N,8] y) {{ {OVERFLOWS[name]} }}")
    rng = np.random.default_rng(3)

    def outlier(factor: float) -> np.ndarray:
        diagonal = np.ones(16, np.float32)
        diagonal[3] = factor
        return np.diag(diagonal)

    weights = {w: rng.standard_normal((16, 8 if w == "w3" else 16)) / 4 for w in ("w1", "w2", "w3")}
    known = {
        **weights,
        "big": np.float32(300),
        "two": np.float32(2),
        "axis": np.array([1]),
        "tiny": np.float32(1e-5),
        "up": outlier(1e3),
        "down": outlier(1e-3),
        "huge": weights["w1"] @ outlier(1e6),
        "small": outlier(1e-6) @ weights["w2"],
    }
    used = {name for node in model.graph.node for name in node.input}
    for name, array in known.items():
        if name in used:
            kind = np.asarray(array).dtype if name == "axis" else np.float32
            model.graph.initializer.append(
                onnx.numpy_helper.from_array(np.asarray(array, kind), name)
            )
    return model
