"""Bias correction: what rounding weights adds to the mean of a product's results.

Rounded weights ``W'`` shift each output channel by ``E[W'x] - E[Wx] = (W' - W) E[x]``, which needs
no more than the mean of each input channel (M. Nagel et al., *Data-free quantization through weight
equalization and bias correction*, ICCV 2019, section 4.2, with means that were measured). At the
border of a convolution fewer taps are summed than the formula assumes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Node, Value


def channel_axis(node: Node, data: int) -> int | None:
    """The axis of a product's activation whose means correct its bias; None if there is none.

    Args:
        node: A product.
        data: Position of its activation; the other operand is constant.
    """
    weights = node.required(1)
    if data != 0 or not weights.is_const:
        return None
    if node.op == "Conv":
        return 1
    if node.op == "Gemm":
        scaled = node.float_attr("alpha", 1.0) != 1.0 or node.float_attr("beta", 1.0) != 1.0
        return None if node.int_attr("transA") or scaled else 1
    return -1 if node.op == "MatMul" and weights.t.rank == 2 else None


def mean_shift(
    node: Node, error: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By how much the mean of each output channel grows with wrong weights.

    Args:
        node: A product for which :func:`channel_axis` is known.
        error: Rounded weights minus weights, of the weights' shape.
        mean: [input channels] of the activation.

    Returns:
        [output channels].
    """
    if node.op == "Conv":
        groups = node.int_attr("group", 1)
        taps = error.reshape(groups, -1, *error.shape[1:2], int(np.prod(error.shape[2:])))
        grouped: NDArray[np.float64] = np.einsum("goit,gi->go", taps, mean.reshape(groups, -1))
        return grouped.reshape(-1)
    if node.op == "Gemm" and node.int_attr("transB"):
        error = error.T
    shift: NDArray[np.float64] = mean @ error
    return shift


def added_bias(node: Node) -> tuple[Node, int] | None:
    """The sum right after a product that adds one number to each of its output channels.

    Returns:
        The Add and the position of the constant bias; None if there is no such sum.
    """
    add, channels = node.output.single_user(), node.output.shape[-1]
    if add is None or add.domain or add.op != "Add":
        return None
    index = 1 if add.required(0) is node.output else 0
    bias = add.required(index)
    fits = bias.is_const and bias.shape == (channels,) and bias.dtype == node.output.dtype
    return (add, index) if fits else None


def has_plain_bias(bias: Value | None, channels: int) -> bool:
    """Whether an optional third input can take a correction."""
    return bias is None or (bias.is_const and bias.shape == (channels,))
