"""Float64 references of what the CPU kernels compute, written from the ONNX operator texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.ir.postops import PostOp

Array = npt.NDArray[Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])

_UNARY = {
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Tanh": np.tanh,
    "Gelu": lambda x: 0.5 * x * (1 + _erf(x * math.sqrt(0.5))),
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "Silu": lambda x: x / (1 + np.exp(-x)),
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x, a, b: np.clip(a * x + b, 0, 1),
    "LeakyRelu": lambda x, a: np.where(x < 0, a * x, x),
    "Elu": lambda x, a: np.where(x < 0, a * np.expm1(x), x),
    "Clip": np.clip,
    "Neg": np.negative,
    "Abs": np.abs,
    "Sqrt": np.sqrt,
    "Exp": np.exp,
    "Erf": _erf,
    "Softplus": lambda x: np.logaddexp(0, x),
}
_BINARY = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": np.maximum,
    "Min": np.minimum,
}


def postops(x: Array, ops: Sequence[PostOp], operands: Sequence[Array]) -> Array:
    """Apply post-operations; ``operands`` as the node has them, not packed."""
    rest = list(operands)
    for op in ops:
        if op.operand:
            x = _BINARY[op.op](x, rest.pop(0).astype(np.float64))
        else:
            x = _UNARY[op.op](x, *op.params)
    return x


def conv(
    x: Array,
    w: Array,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Array:
    """Convolution of NHWC data with ONNX weights [OC, IC/groups, KH, KW]."""
    top, left, bottom, right = pads
    xp = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    oc, ic, kh, kw = w.shape
    oh = (xp.shape[1] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    ow = (xp.shape[2] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    out = np.zeros((x.shape[0], oh, ow, oc))
    each = oc // groups
    for g in range(groups):
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dilations[0], i * dilations[0] + (oh - 1) * strides[0] + 1)
                cols = slice(j * dilations[1], j * dilations[1] + (ow - 1) * strides[1] + 1)
                patch = xp[
                    :,
                    rows.start : rows.stop : strides[0],
                    cols.start : cols.stop : strides[1],
                    g * ic : (g + 1) * ic,
                ]
                weights = w[g * each : (g + 1) * each, :, i, j].astype(np.float64)
                out[..., g * each : (g + 1) * each] += patch @ weights.T
    return out


def conv_transpose(
    x: Array,
    w: Array,
    strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    output_padding: Sequence[int] = (0, 0),
) -> Array:
    """Transposed convolution of NHWC data with ONNX weights [IC, OC/groups, KH, KW]."""
    n, h, width, ic = x.shape
    _, each, kh, kw = w.shape
    full = np.zeros(
        (
            n,
            (h - 1) * strides[0] + (kh - 1) * dilations[0] + 1 + output_padding[0],
            (width - 1) * strides[1] + (kw - 1) * dilations[1] + 1 + output_padding[1],
            each * groups,
        )
    )
    part = ic // groups
    for g in range(groups):
        for i in range(kh):
            for j in range(kw):
                value = x[..., g * part : (g + 1) * part].astype(np.float64) @ w[
                    g * part : (g + 1) * part, :, i, j
                ].astype(np.float64)
                rows = slice(
                    i * dilations[0], i * dilations[0] + (h - 1) * strides[0] + 1, strides[0]
                )
                cols = slice(
                    j * dilations[1], j * dilations[1] + (width - 1) * strides[1] + 1, strides[1]
                )
                full[:, rows, cols, g * each : (g + 1) * each] += value
    top, left, bottom, right = pads
    return full[:, top : full.shape[1] - bottom, left : full.shape[2] - right]


def pool(
    kind: str,
    x: Array,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
    count_include_pad: bool = False,
) -> Array:
    """Pooling of NHWC data, window by window."""
    n, h, w, c = x.shape
    sizes = []
    for axis, size in enumerate((h, w)):
        room = size + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel[axis] - 1) - 1
        count = (math.ceil if ceil_mode else math.floor)(room / strides[axis]) + 1
        if ceil_mode and (count - 1) * strides[axis] >= size + pads[axis]:
            count -= 1
        sizes.append(count)
    out = np.zeros((n, *sizes, c))
    for i in range(sizes[0]):
        for j in range(sizes[1]):
            values, counted = [], 0
            for a in range(kernel[0]):
                for b in range(kernel[1]):
                    row = i * strides[0] - pads[0] + a * dilations[0]
                    col = j * strides[1] - pads[1] + b * dilations[1]
                    inside = 0 <= row < h and 0 <= col < w
                    if inside:
                        values.append(x[:, row, col].astype(np.float64))
                    counted += inside or (
                        count_include_pad and row < h + pads[2] and col < w + pads[3]
                    )
            if kind == "max":
                out[:, i, j] = np.max(values, axis=0)
            else:
                out[:, i, j] = np.sum(values, axis=0) / counted
    return out
