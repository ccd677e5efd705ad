"""Random weights that keep activations near 1, so that a network without training can be quantized.

Layer-sequential unit variance (D. Mishkin, J. Matas, "All you need is a good init", 2016): one
convolution after the other is scaled until its results have standard deviation 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper


def balance(model: Path, output: Path, feeds: Mapping[str, NDArray[Any]]) -> None:
    """Write ``model`` with the weights and biases of each convolution scaled by one number."""
    proto = onnx.load(model)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type != "Conv" or node.input[1] not in constants:
            continue
        deviation = float(_value(proto, node.output[0], feeds).std())
        for name in node.input[1:]:
            scaled = numpy_helper.to_array(constants[name]) / np.float32(deviation)
            constants[name].CopyFrom(numpy_helper.from_array(scaled.astype(np.float32), name))
    onnx.save(proto, output)


def _value(
    proto: onnx.ModelProto, name: str, feeds: Mapping[str, NDArray[Any]]
) -> NDArray[np.float32]:
    """A value inside the model: onnxruntime leaves out what does not lead to it."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.graph.output[:]
    part.graph.output.add(name=name)
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run([name], dict(feeds))[0]
    return result
