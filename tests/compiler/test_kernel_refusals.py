"""Kernel rules: why they refuse nodes."""

from __future__ import annotations

import pytest

from burnish.backends.cpu.rules import RULES
from burnish.ir import Node
from tests.support.golden import parse


def node(text: str, key: str) -> Node:
    """The node ``key`` of a graph in text."""
    return next(n for n in parse(text).nodes if n.key == key)


REFUSED = {
    "group_norm: unknown channels": (
        "GroupNormalization",
        "g (float[2,c,4] x, float[c] s, float[c] b) => (float[2,c,4] y) "
        "{ y = GroupNormalization<num_groups=2>(x, s, b) }",
        "the number of channels is not known",
    ),
    "conv: weights of the model": (
        "burnish::Conv",
        "g (float[1,8,8,3] x, float[4,3,1,1] w) => (float[1,8,8,4] y) { y = burnish.Conv"
        '<data_format="NHWC", group=1>(x, w) }',
        "the weights are not constant",
    ),
    "conv: channels first": (
        "burnish::Conv",
        "g (float[1,3,8,8] x) => (float[1,4,8,8] y) <float[4,3,1,1] w> { y = burnish.Conv"
        '<data_format="NCHW", group=1>(x, w) }',
        "no kernel for layout NCHW",
    ),
    "conv: three spatial axes": (
        "burnish::Conv",
        "g (float[1,4,4,4,3] x) => (float[1,4,4,4,2] y) <float[2,3,1,1,1] w> { y = burnish.Conv"
        '<data_format="NDHWC", group=1>(x, w) }',
        "no kernel for layout NDHWC",
    ),
    "conv: double": (
        "burnish::Conv",
        "g (double[1,8,8,3] x) => (double[1,8,8,4] y) <double[4,3,1,1] w> { y = burnish.Conv"
        '<data_format="NHWC", group=1>(x, w) }',
        "no kernel for float64",
    ),
    "conv: bias of the model": (
        "burnish::Conv",
        "g (float[1,8,8,3] x, float[4] b) => (float[1,8,8,4] y) <float[4,3,1,1] w> { y = "
        'burnish.Conv<data_format="NHWC", group=1, postops=["Add:channel"]>(x, w, b) }',
        "the channel operand of a post-op is not constant",
    ),
    "matmul: weights of the model": (
        "burnish::MatMul",
        "g (float[2,3] x, float[3,4] w) => (float[2,4] y) { y = burnish.MatMul(x, w) }",
        "the weights are not a constant matrix",
    ),
    "matmul: double": (
        "burnish::MatMul",
        "g (double[2,3] x) => (double[2,4] y) <double[3,4] w> { y = burnish.MatMul(x, w) }",
        "no kernel for float64",
    ),
    "attention: four axes": (
        "burnish::Attention",
        "g (float[1,2,3,8] q, float[1,2,3,8] k, float[1,2,3,8] v) => (float[1,2,3,8] y) "
        "{ y = burnish.Attention<num_heads=2, kv_num_heads=2, scale=0.5>(q, k, v) }",
        "not [batch, length, heads * width]",
    ),
    "attention: double": (
        "burnish::Attention",
        "g (double[1,3,8] q, double[1,3,8] k, double[1,3,8] v) => (double[1,3,8] y) "
        "{ y = burnish.Attention<num_heads=2, kv_num_heads=2, scale=0.5>(q, k, v) }",
        "no kernel for float64",
    ),
    "pool: channels first": (
        "burnish::MaxPool",
        'g (float[1,3,8,8] x) => (float[1,3,4,4] y) { y = burnish.MaxPool<data_format="NCHW", '
        "kernel_shape=[2,2], strides=[2,2]>(x) }",
        "no kernel for layout NCHW",
    ),
    "pool: post-ops": (
        "burnish::MaxPool",
        'g (float[1,8,8,3] x) => (float[1,4,4,3] y) { y = burnish.MaxPool<data_format="NHWC", '
        'kernel_shape=[2,2], strides=[2,2], postops=["Relu"]>(x) }',
        "pooling kernels have no post-ops",
    ),
    "pool: double": (
        "burnish::GlobalAveragePool",
        "g (double[1,8,8,3] x) => (double[1,1,1,3] y) "
        '{ y = burnish.GlobalAveragePool<data_format="NHWC">(x) }',
        "no kernel for float64",
    ),
    "norm: two axes": (
        "LayerNormalization",
        "g (float[2,3,4] x) => (float[2,3,4] y) <float[3,4] s> "
        "{ y = LayerNormalization<axis=1>(x, s) }",
        "it normalizes over more than the last axis",
    ),
    "norm: mean is an output": (
        "LayerNormalization",
        "g (float[2,4] x) => (float[2,4] y, float[2,1] m) <float[4] s> "
        "{ y, m = LayerNormalization(x, s) }",
        "mean or deviation is an output",
    ),
    "norm: unknown width": (
        "LayerNormalization",
        "g (float[2,n] x, float[n] s) => (float[2,n] y) { y = LayerNormalization(x, s) }",
        "the size of the last axis is not known",
    ),
    "norm: one scale for all": (
        "LayerNormalization",
        "g (float[2,4] x) => (float[2,4] y) <float[1] s> { y = LayerNormalization(x, s) }",
        "scale or bias is not of the size of the last axis",
    ),
    "norm: residual of another shape": (
        "burnish::AddLayerNorm",
        "g (float[2,4] x, float[1,4] r) => (float[2,4] y) <float[4] s> "
        "{ y = burnish.AddLayerNorm(x, r, s, s) }",
        "the residual is broadcast",
    ),
    "norm: double": (
        "RMSNormalization",
        "g (double[2,4] x) => (double[2,4] y) <double[4] s> { y = RMSNormalization(x, s) }",
        "no kernel for float64",
    ),
    "softmax: double": (
        "Softmax",
        "g (double[2,4] x) => (double[2,4] y) { y = Softmax(x) }",
        "no kernel for float64",
    ),
    "lstm: weights of the model": (
        "LSTM",
        "g (float[5,1,3] x, float[1,16,3] w) => (float[5,1,1,4] y) <float[1,16,4] r> "
        "{ y = LSTM<hidden_size=4>(x, w, r) }",
        "the weights are not constant",
    ),
    "lstm: other activations": (
        "LSTM",
        "g (float[5,1,3] x) => (float[5,1,1,4] y) <float[1,16,3] w, float[1,16,4] r> "
        '{ y = LSTM<hidden_size=4, activations=["Relu", "Tanh", "Tanh"]>(x, w, r) }',
        "no kernel for these activations",
    ),
    "lstm: clip": (
        "LSTM",
        "g (float[5,1,3] x) => (float[5,1,1,4] y) <float[1,16,3] w, float[1,16,4] r> "
        "{ y = LSTM<hidden_size=4, clip=1.0>(x, w, r) }",
        "no kernel with clip",
    ),
    "lstm: coupled gates": (
        "LSTM",
        "g (float[5,1,3] x) => (float[5,1,1,4] y) <float[1,16,3] w, float[1,16,4] r> "
        "{ y = LSTM<hidden_size=4, input_forget=1>(x, w, r) }",
        "no kernel with input_forget",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name: str) -> None:
    key, text, reason = REFUSED[name]
    refused = RULES[key].accepts(node(text, key))
    assert refused is not None
    assert reason in refused.reason
