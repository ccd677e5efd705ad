"""Rounds weights one row after the other, so that later rows make up for what earlier ones lose.

Rounded one by one, weights of activations that go together add their errors up. GPTQ (E. Frantar
et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, 2022,
algorithm 1) lets the rows that are still to be rounded take over the expected error of those
before, by the second moments of the activation. Each channel's own moment is counted twice: with
few samples the others say more about the samples than about the activation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Node
from burnish.passes.quantization.parameters import QuantizedWeights

#: Rows whose errors the rows behind them take over together.
_BLOCK = 128
#: Share of its moment that is added to a channel's, and of the mean moment to all.
_DAMPING, _LEAST = 1.0, 1e-6


def multiplies_last_axis(node: Node) -> bool:
    """Whether a product is that of an activation's last axis and a constant matrix."""
    if node.op not in ("MatMul", "Gemm") or node.required(0).is_const:
        return False
    weights = node.required(1)
    return weights.is_const and weights.t.rank == 2 and not node.int_attr("transA")


def compensated(
    node: Node, found: QuantizedWeights, moments: NDArray[np.float32]
) -> QuantizedWeights:
    """Weights of a product, rounded anew at the same scales.

    Args:
        node: A product for which :func:`multiplies_last_axis` holds; its weights are not rounded.
        found: Its weights, each rounded to the nearest.
        moments: [channels, channels] mean products of channels of the activation.
    """
    weights = node.required(1).array.astype(np.float64)
    transposed = bool(node.int_attr("transB"))
    rows = weights.T if transposed else weights
    values = _compensated_rows(rows, found.scale.astype(np.float64), moments.astype(np.float64))
    return QuantizedWeights(values.T.copy() if transposed else values, found.scale, found.axis)


def _compensated_rows(
    weights: NDArray[np.float64], scale: NDArray[np.float64], moments: NDArray[np.float64]
) -> NDArray[np.int8]:
    """[K, N] weights at [N] scales or a single one, rounded."""
    own = np.diag(moments)
    floor = _LEAST * own.mean() or 1.0
    damped = moments + np.diag(_DAMPING * own + floor)
    # What counts most is rounded first, while many rows are left to make up for it.
    order = np.argsort(-own, kind="stable")
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left = weights[order]
    values = np.zeros(weights.shape, np.int8)
    for first in range(0, len(left), _BLOCK):
        last = min(first + _BLOCK, len(left))
        errors = np.zeros((last - first, left.shape[1]))
        for row in range(first, last):
            rounded = np.clip(np.rint(left[row] / scale), -127, 127)
            values[order[row]] = rounded
            errors[row - first] = (left[row] - rounded * scale) / upper[row, row]
            left[row + 1 : last] -= np.outer(upper[row, row + 1 : last], errors[row - first])
        left[last:] -= upper[first:last, last:].T @ errors
    return values
