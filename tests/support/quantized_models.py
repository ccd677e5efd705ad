"""Small models that onnxruntime's own tools quantize, in every form that they write."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from burnish.check.reference import Reference

OPSET = 17


class Net:
    """Builds an ONNX model of one input ``x`` and one output, with seeded weights."""

    def __init__(self, shape: tuple[int | str, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.input = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)

    def weight(self, *shape: int, scale: float | None = None) -> str:
        """A constant of normal numbers; ``scale`` is by default what keeps sums near 1."""
        deviation = np.prod(shape[1:]) ** -0.5 if scale is None else scale
        name = f"w{len(self.constants)}"
        array = (self.rng.standard_normal(shape) * deviation).astype(np.float32)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def ints(self, *values: int) -> str:
        """A constant of whole numbers."""
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> str:
        """A node; returns its first output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        results = [name, *(f"{name}_{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(kind, inputs, results, name=name, **attrs))
        return name

    def model(self, y: str, rank: int) -> onnx.ModelProto:
        """The model whose output is ``y``."""
        output = helper.make_tensor_value_info(y, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, "g", [self.input], [output], self.constants)
        opset = helper.make_opsetid("", OPSET)
        made = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        onnx.checker.check_model(made)
        return onnx.shape_inference.infer_shapes(made)


def convolutional(seed: int = 1) -> onnx.ModelProto:
    """Stem, depthwise and pointwise convolutions, a residual sum, pools and a classifier."""
    net = Net((1, 3, 17, 15), seed)
    y = net.op("Conv", "x", net.weight(16, 3, 3, 3), net.weight(16), pads=[1] * 4, strides=[2, 2])
    y = short = net.op("Relu", y)
    y = net.op("Conv", y, net.weight(16, 1, 3, 3), net.weight(16), pads=[1] * 4, group=16)
    y = net.op("Clip", y, net.op("Identity", _number(net, 0.0)), _number(net, 6.0))
    y = net.op("Conv", y, net.weight(16, 16, 1, 1), net.weight(16))
    y = net.op("Relu", net.op("Add", y, short))
    y = net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = net.op("Conv", y, net.weight(24, 16, 3, 3), pads=[1] * 4)
    y = net.op("GlobalAveragePool", y)
    y = net.op("Flatten", y)
    y = net.op("Gemm", y, net.weight(10, 24), net.weight(10), transB=1)
    return net.model(y, 2)


def _number(net: Net, value: float) -> str:
    name = f"w{len(net.constants)}"
    net.constants.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def transformer(seed: int = 2) -> onnx.ModelProto:
    """Attention, a feed-forward block with GELU, normalization; any number of rows."""
    net = Net(("rows", 32), seed)

    def linear(x: str, k: int, n: int) -> str:
        product = net.op("MatMul", x, net.weight(k, n, scale=k**-0.5))
        return net.op("Add", product, net.weight(n))

    def heads(x: str, perm: list[int]) -> str:
        return net.op("Transpose", net.op("Reshape", x, net.ints(-1, 4, 8)), perm=perm)

    q, k, v = (linear("x", 32, 32) for _ in range(3))
    scores = net.op("MatMul", heads(q, [1, 0, 2]), heads(k, [1, 2, 0]))
    weights = net.op("Softmax", net.op("Div", scores, _number(net, 8**0.5)), axis=-1)
    mixed = net.op("MatMul", weights, heads(v, [1, 0, 2]))
    mixed = net.op("Reshape", net.op("Transpose", mixed, perm=[1, 0, 2]), net.ints(-1, 32))
    x = net.op("Add", linear(mixed, 32, 32), "x")
    inner = linear(x, 32, 96)
    half = net.op("Div", inner, _number(net, float(np.sqrt(2.0))))
    erf = net.op("Add", net.op("Erf", half), _number(net, 1.0))
    gelu = net.op("Mul", net.op("Mul", inner, erf), _number(net, 0.5))
    y = net.op("Add", linear(gelu, 96, 32), x)
    y = net.op("LayerNormalization", y, net.weight(32, scale=1.0), net.weight(32))
    return net.model(linear(y, 32, 7), 2)


def recurrent(seed: int = 3) -> onnx.ModelProto:
    """An LSTM and a classifier of its last state."""
    net = Net((6, 1, 8), seed)
    size = 16
    weights = [net.weight(1, 4 * size, 8, scale=0.3), net.weight(1, 4 * size, size, scale=0.3)]
    bias = net.weight(1, 8 * size, scale=0.1)
    net.op("LSTM", "x", *weights, bias, hidden_size=size, outputs=2)
    state = net.op("Reshape", f"{net.nodes[-1].name}_1", net.ints(1, size))
    return net.model(net.op("MatMul", state, net.weight(size, 5)), 2)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "convolutional": convolutional,
    "transformer": transformer,
    "recurrent": recurrent,
}


def feeds(name: str, seed: int = 0) -> dict[str, np.ndarray]:
    """An input of a net."""
    rng = np.random.default_rng(seed)
    shapes = {"convolutional": (1, 3, 17, 15), "transformer": (13, 32), "recurrent": (6, 1, 8)}
    return {"x": rng.standard_normal(shapes[name]).astype(np.float32)}


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Sequence[dict[str, np.ndarray]]) -> None:
        self._samples = iter(samples)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next sample."""
        return next(self._samples, None)


_UNSIGNED = {"activation_type": QuantType.QUInt8}
_STATIC: dict[str, dict[str, Any]] = {
    "qdq": {**_UNSIGNED, "weight_type": QuantType.QInt8, "per_channel": True},
    "qdq-signed": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
    "qdq-unsigned": {**_UNSIGNED, "weight_type": QuantType.QUInt8},
    "qdq-16": {
        "activation_type": QuantType.QUInt16,
        "weight_type": QuantType.QInt8,
        "extra_options": {"UseQDQContribOps": True},
    },
    "qoperator": {
        **_UNSIGNED,
        "quant_format": QuantFormat.QOperator,
        "weight_type": QuantType.QInt8,
        "per_channel": True,
    },
    "qoperator-unsigned": {
        **_UNSIGNED,
        "quant_format": QuantFormat.QOperator,
        "weight_type": QuantType.QUInt8,
    },
}
_DYNAMIC: dict[str, dict[str, Any]] = {
    "dynamic": {"weight_type": QuantType.QInt8},
    "dynamic-channels": {"weight_type": QuantType.QInt8, "per_channel": True},
    "dynamic-unsigned": {"weight_type": QuantType.QUInt8},
}
FORMS = (*_STATIC, *_DYNAMIC)


def quantize(source: Path, made: Path, form: str, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Quantize a model as one of onnxruntime's tools does."""
    # onnxruntime recommends its preprocessing at every call.
    logging.disable(logging.WARNING)
    try:
        if form in _STATIC:
            options = {"quant_format": QuantFormat.QDQ, **_STATIC[form]}
            quantize_static(source, made, _Samples(samples), **options)
        else:
            quantize_dynamic(source, made, **_DYNAMIC[form])
    finally:
        logging.disable(logging.NOTSET)


def quantized(name: str, form: str, folder: Path) -> Path:
    """A net as one of onnxruntime's tools quantizes it."""
    source, made = folder / f"{name}.onnx", folder / f"{name}-{form}.onnx"
    onnx.save(NETS[name](), source)
    quantize(source, made, form, [feeds(name, seed) for seed in range(10, 14)])
    return made


def reference(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What onnxruntime computes from a model of one output."""
    with Reference(str(path)) as session:
        (result,) = session.run(None, inputs)
    return np.asarray(result)
