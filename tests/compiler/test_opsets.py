"""Older operator forms: onnxruntime computes the same from a model and from its canonical form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from burnish.errors import ModelError
from burnish.export import to_model
from burnish.importers import load
from burnish.importers.upgrade import CANONICAL_OPSET, NEWEST_OPSET
from tests.support.roundtrip import check, model, run

#: What onnxruntime 1.23, the last one for Python 3.10, runs.
ORT_OLDEST, ORT_NEWEST = 7, 23

# (opset, graph): every row is a form that differs from the canonical one.
FORMS = {
    "squeeze-attr": (11, "g (float[2,1,3] x) => (float[2,3] y) { y = Squeeze<axes=[1]>(x) }"),
    "squeeze-none": (11, "g (float[2,1,3] x) => (float[2,3] y) { y = Squeeze(x) }"),
    "unsqueeze-attr": (9, "g (float[2,3] x) => (float[2,1,3] y) { y = Unsqueeze<axes=[1]>(x) }"),
    "reduce-sum-attr": (
        11,
        "g (float[2,3,4] x) => (float[N,M] y) { y = ReduceSum<axes=[1], keepdims=0>(x) }",
    ),
    "reduce-mean-attr": (
        13,
        "g (float[2,3,4] x) => (float[N,M,K] y) { y = ReduceMean<axes=[-1, 0]>(x) }",
    ),
    "reduce-max-all": (12, "g (float[2,3] x) => (float[N,M] y) { y = ReduceMax(x) }"),
    "reduce-l2": (11, "g (float[2,3] x) => (float[N] y) { y = ReduceL2<axes=[0],keepdims=0>(x) }"),
    "slice-attr": (
        9,
        """g (float[5,6] x) => (float[N,M] y)
        { y = Slice<starts=[1,-3],ends=[4,100],axes=[0,1]>(x) }""",
    ),
    "slice-attr-no-axes": (
        9,
        "g (float[5,6] x) => (float[N,M] y) { y = Slice<starts=[1,0],ends=[-1,2]>(x) }",
    ),
    "split-attr": (
        11,
        "g (float[2,6] x) => (float[N,M] a, float[N,K] b) { a, b = Split<axis=1,split=[2,4]>(x) }",
    ),
    "split-even": (
        13,
        "g (float[6,2] x) => (float[N,M] a, float[N,M] b, float[N,M] c) { a, b, c = Split(x) }",
    ),
    "topk-attr": (
        9,
        "g (float[2,6] x) => (float[N,M] a, int64[N,M] b) { a, b = TopK<k=3>(x) }",
    ),
    "clip-attr": (6 + 1, "g (float[4,5] x) => (float[4,5] y) { y = Clip<min=-0.5,max=0.7>(x) }"),
    "clip-min": (7, "g (float[4,5] x) => (float[4,5] y) { y = Clip<min=-0.5>(x) }"),
    "pad-attr": (
        10,
        "g (float[2,3] x) => (float[N,M] y) { y = Pad<pads=[1,0,0,2],value=1.5>(x) }",
    ),
    "pad-reflect": (
        10,
        'g (float[4,5] x) => (float[N,M] y) { y = Pad<pads=[1,2,2,1],mode="reflect">(x) }',
    ),
    "dropout-ratio": (10, "g (float[4,5] x) => (float[4,5] y) { y = Dropout<ratio=0.3>(x) }"),
    "dropout-7": (7, "g (float[4,5] x) => (float[4,5] y) { y = Dropout<ratio=0.3>(x) }"),
    "batch-norm-7": (
        7,
        """g (float[2,3,4,4] x) => (float[2,3,4,4] y)
        <float[3] s = {1,2,0.5}, float[3] b = {0.1,-1,2}, float[3] m = {0.2,0,1},
         float[3] v = {1,2,3}> { y = BatchNormalization<epsilon=0.01,spatial=1>(x,s,b,m,v) }""",
    ),
    "batch-norm-9": (
        9,
        """g (float[2,3,4,4] x) => (float[2,3,4,4] y)
        <float[3] s = {1,2,0.5}, float[3] b = {0.1,-1,2}, float[3] m = {0.2,0,1},
         float[3] v = {1,2,3}> { y = BatchNormalization<momentum=0.5>(x,s,b,m,v) }""",
    ),
    "softmax-coerced": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax(x) }"),
    "softmax-coerced-symbolic": (
        11,
        "g (float[N,3,M] x) => (float[N,3,M] y) { y = Softmax<axis=1>(x) }",
    ),
    "softmax-negative": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=-2>(x) }"),
    "softmax-last": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Softmax<axis=2>(x) }"),
    "softmax-4d-ones": (9, "g (float[2,5,1,1] x) => (float[2,5,1,1] y) { y = Softmax<axis=1>(x) }"),
    "log-softmax": (7, "g (float[2,3,4] x) => (float[2,3,4] y) { y = LogSoftmax<axis=1>(x) }"),
    "hardmax": (11, "g (float[2,3,4] x) => (float[2,3,4] y) { y = Hardmax<axis=1>(x) }"),
    "upsample-7": (
        7,
        "g (float[1,2,3,4] x) => (float[N,C,H,W] y) { y = Upsample<scales=[1.0,1.0,2.0,3.0]>(x) }",
    ),
    "upsample-9-linear": (
        9,
        """g (float[1,2,3,4] x) => (float[N,C,H,W] y) <float[4] s = {1.0,1.0,2.0,2.0}>
        { y = Upsample<mode="linear">(x, s) }""",
    ),
    "resize-10": (
        10,
        """g (float[1,2,4,6] x) => (float[N,C,H,W] y) <float[4] s = {1.0,1.0,2.0,1.5}>
        { y = Resize(x, s) }""",
    ),
    "resize-10-down": (
        10,
        """g (float[1,2,4,6] x) => (float[N,C,H,W] y) <float[4] s = {1.0,1.0,0.5,0.6}>
        { y = Resize<mode="nearest">(x, s) }""",
    ),
    "resize-10-linear": (
        10,
        """g (float[1,2,4,6] x) => (float[N,C,H,W] y) <float[4] s = {1.0,1.0,0.5,1.7}>
        { y = Resize<mode="linear">(x, s) }""",
    ),
    "resize-11-sizes": (
        11,
        """g (float[1,2,4,6] x) => (float[N,C,H,W] y)
        <float[0] roi = {}, float[0] s = {}, int64[4] n = {1,2,7,5}>
        { y = Resize<mode="nearest",coordinate_transformation_mode="half_pixel">(x, roi, s, n) }""",
    ),
    "resize-11-tf-half-pixel": (
        11,
        """g (float[1,2,4,6] x) => (float[N,C,H,W] y)
        <float[0] roi = {}, float[4] s = {1.0,1.0,1.6,0.7}>
        { y = Resize<mode="nearest",nearest_mode="floor",
                     coordinate_transformation_mode="tf_half_pixel_for_nn">(x, roi, s) }""",
    ),
    "resize-13-cubic": (
        13,
        """g (float[1,1,5,6] x) => (float[N,C,H,W] y)
        <float[4] s = {1.0,1.0,2.0,1.5}>
        { y = Resize<mode="cubic",cubic_coeff_a=-0.5>(x, , s) }""",
    ),
    "gemm-7": (
        7,
        """g (float[2,3] a, float[4,3] b, float[4] c) => (float[2,4] y)
        { y = Gemm<alpha=0.5,beta=2.0,transB=1>(a, b, c) }""",
    ),
    "scatter-9": (
        9,
        """g (float[3,3] x, float[1,3] u) => (float[3,3] y) <int64[1,3] i = {2,0,1}>
        { y = Scatter<axis=0>(x, i, u) }""",
    ),
    "group-norm-18": (
        18,
        """g (float[2,4,3,3] x) => (float[2,4,3,3] y)
        <float[2] s = {1.5,-2.0}, float[2] b = {0.1,-1.0}>
        { y = GroupNormalization<num_groups=2,epsilon=0.01>(x, s, b) }""",
    ),
    "grid-sample-16": (
        16,
        """g (float[1,2,4,4] x, float[1,3,3,2] grid) => (float[1,2,3,3] y)
        { y = GridSample<mode="bilinear">(x, grid) }""",
    ),
    "dft-17": (
        17,
        "g (float[1,8,1] x) => (float[N,M,K] y) { y = DFT<axis=1>(x) }",
    ),
    "average-pool-7": (
        7,
        """g (float[1,2,5,5] x) => (float[N,C,H,W] y)
        { y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1],strides=[2,2],
                          count_include_pad=1>(x) }""",
    ),
    "max-pool-10-ceil": (
        10,
        """g (float[1,2,6,7] x) => (float[N,C,H,W] y)
        { y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1,dilations=[1,1]>(x) }""",
    ),
    "lstm-7": (
        7,
        """g (float[T,2,3] x, float[1,16,3] w, float[1,16,4] r, float[1,32] b)
        => (float[T,1,2,4] y, float[1,2,4] h, float[1,2,4] c)
        { y, h, c = LSTM<hidden_size=4>(x, w, r, b) }""",
    ),
    "constant-of-shape": (
        9,
        "g (float[2,3] x) => (float[2,3] y) { s = Shape(x) z = ConstantOfShape(s) y = Add(x, z) }",
    ),
    "one-hot-9": (
        9,
        """g (int64[3] x) => (float[N,M] y) <int64 d = {5}, float[2] v = {0.5,2.0}>
        { y = OneHot(x, d, v) }""",
    ),
    "optional-of-tensor": (
        18,
        """g (float[2,3] x) => (float[2,3] y, bool h)
        { h = OptionalHasElement(x) z = Neg(x) y = OptionalGetElement(z) }""",
    ),
    "bool-where": (
        9,
        "g (float[2,3] x) => (float[2,3] y) { c = Greater(x, x) z = Neg(x) y = Where(c, x, z) }",
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_old_form_means_the_same(name: str) -> None:
    opset, text = FORMS[name]
    proto = model(text, opset)
    graph = check(proto, sizes={"N": 2, "M": 3, "T": 4})
    assert graph.opset[""] == CANONICAL_OPSET
    for node in graph.walk():
        assert node.domain == ""
        assert "axes" not in node.attrs


def test_roi_align_keeps_its_old_coordinates() -> None:
    text = """g (float[1,2,8,8] x, float[1,4] rois, int64[1] batch) => (float[1,2,2,2] y)
        { y = RoiAlign<output_height=2,output_width=2>(x, rois, batch) }"""
    (node,) = load(model(text, 10)).nodes
    assert node.attrs["coordinate_transformation_mode"] == "output_half_pixel"
    assert str(node.output.type) == "float32[1,2,2,2]"
    (node,) = load(model(text, 16)).nodes
    assert "coordinate_transformation_mode" not in node.attrs


@pytest.mark.parametrize("opset", range(1, CANONICAL_OPSET + 1))
def test_every_opset_is_taken(opset: int) -> None:
    proto = model("g (float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Add(a, x) }", opset)
    if ORT_OLDEST <= opset <= ORT_NEWEST:
        check(proto, sizes={"N": 2})
    else:
        x = np.asarray([[-1, 2, 3], [4, -5, 6]], np.float32)
        (y,) = run(to_model(load(proto)), {"x": x})
        np.testing.assert_array_equal(y, np.maximum(x, 0) + x)


@pytest.mark.parametrize("opset", [0, CANONICAL_OPSET + 1])
def test_other_opsets_are_refused(opset: int) -> None:
    with pytest.raises(ModelError, match=f"opset {opset}; supported are 1 to {CANONICAL_OPSET}"):
        load(model("g (float[2] x) => (float[2] y) { y = Relu(x) }", opset))


REFUSED = {
    "batch-norm-spatial": (
        7,
        """g (float[2,3,4] x, float[3,4] s, float[3,4] b, float[3,4] m, float[3,4] v)
        => (float[2,3,4] y) { y = BatchNormalization<spatial=0>(x,s,b,m,v) }""",
        "spatial=0",
    ),
    "batch-norm-training": (
        15,
        """g (float[2,3] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[2,3] y)
        { y, rm, rv = BatchNormalization<training_mode=1>(x,s,b,m,v) }""",
        "training mode",
    ),
    "dropout-training": (
        13,
        "g (float[2] x) => (float[2] y) <float r = {0.5}, bool t = {1}> { y = Dropout(x, r, t) }",
        "training mode",
    ),
    "dropout-training-6": (
        6,
        "g (float[2] x) => (float[2] y) { y = Dropout(x) }",
        "training mode",
    ),
    "shapes-differ-6": (
        6,
        "g (float[2,3] x, float[3] s) => (float[2,3] y) { y = Add(x, s) }",
        "broadcast is not set",
    ),
    "split-uneven": (13, "g (float[5] x) => (float[N] a, float[M] b) { a, b = Split(x) }", "equal"),
    "resize-mixed": (
        10,
        """g (float[1,1,4,4] x) => (float[N,C,H,W] y) <float[4] s = {1.0,1.0,2.0,0.5}>
        { y = Resize(x, s) }""",
        "enlarges",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forms_without_a_canonical_one_are_refused_with_the_node(name: str) -> None:
    opset, text, message = REFUSED[name]
    proto = model(text, opset)
    proto.graph.node[0].name = "culprit"
    with pytest.raises(ModelError, match=message) as caught:
        load(proto)
    assert caught.value.at == "culprit"


X = np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)
SMALL = np.asarray([0.5, -2, 3], np.float32)

# (opset, graph, expected): forms before opset 7, of which onnxruntime runs none.
EARLY = {
    "add-axis": (
        6,
        """g (float[2,3,4] x, float[3] s) => (float[2,3,4] y)
        { y = Add<broadcast=1,axis=1>(x, s) }""",
        X + SMALL[:, None],
    ),
    "mul-negative-axis": (
        1,
        """g (float[2,3,4] x, float[3] s) => (float[2,3,4] y)
        { y = Mul<broadcast=1,axis=-2,consumed_inputs=[0,0]>(x, s) }""",
        X * SMALL[:, None],
    ),
    "prelu-channels": (
        6,
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = PRelu(x, s) }",
        np.where(X < 0, X * SMALL[:, None], X),
    ),
    "selu-1": (
        1,
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = Selu(x) }",
        np.where(X > 0, 1.0507 * X, 1.0507 * 1.6732 * np.expm1(X)),
    ),
    "cast-by-name": (
        1,
        'g (float[2,3,4] x, float[3] s) => (int32[2,3,4] y) { y = Cast<to="INT32">(x) }',
        X.astype(np.int32),
    ),
    "reshape-attribute": (
        1,
        "g (float[2,3,4] x, float[3] s) => (float[3,8] y) { y = Reshape<shape=[3,-1]>(x) }",
        X.reshape(3, 8),
    ),
    "concat-default": (
        1,
        "g (float[2,3,4] x, float[3] s) => (float[2,6,4] y) { y = Concat(x, x) }",
        np.concatenate([X, X], 1),
    ),
    "pad-paddings": (
        1,
        """g (float[2,3,4] x, float[3] s) => (float[2,3,7] y)
        { y = Pad<paddings=[0,0,1,0,0,2],value=1.5>(x) }""",
        np.pad(X, [(0, 0), (0, 0), (1, 2)], constant_values=1.5),
    ),
    "tile-one-axis": (
        1,
        """g (float[2,3,4] x, float[3] s) => (float[2,3,8] y)
        <float count = {2.0}, float axis = {2.0}> { y = Tile(x, count, axis) }""",
        np.tile(X, (1, 1, 2)),
    ),
    "dropout-test": (
        6,
        "g (float[2,3,4] x, float[3] s) => (float[2,3,4] y) { y = Dropout<is_test=1>(x) }",
        X,
    ),
}


@pytest.mark.parametrize("name", EARLY)
def test_forms_before_opset_7(name: str) -> None:
    opset, text, expected = EARLY[name]
    graph = load(model(text, opset))
    (found,) = run(to_model(graph), {"x": X, "s": SMALL})
    assert found.dtype == (graph.outputs[0].dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_upsample_1_scales_height_and_width() -> None:
    text = """g (float[1,1,2,2] x) => (float[1,1,4,6] y)
        { y = Upsample<height_scale=2.0,width_scale=3.0>(x) }"""
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    (y,) = run(to_model(load(model(text, 1))), {"x": x})
    np.testing.assert_array_equal(y, x.repeat(2, 2).repeat(3, 3))


#: Operators that are new or changed after opset 25. A row says that somebody has compared what
#: burnish does with the new text; a newer opset is refused until its operators are here.
REVIEWED = """
    BitCast BitShift Cast CausalConvWithState Celu Compress CumProd DepthToSpace DequantizeLinear
    Einsum LinearAttention Mod OneHot Optional OptionalGetElement OptionalHasElement QuantizeLinear
    Range ReduceLogSum ReduceLogSumExp ReverseSequence SpaceToDepth SwiGLU Unique
"""


def test_every_operator_of_the_newest_opsets_was_reviewed() -> None:
    schemas = onnx.defs.get_all_schemas_with_history()
    changed = {s.name for s in schemas if not s.domain and 25 < s.since_version <= NEWEST_OPSET}
    assert changed <= set(REVIEWED.split())


CONTRIB = {
    "gelu": "g (float[2,8] x) => (float[2,8] y) { y = com.microsoft.Gelu(x) }",
    "fast-gelu": """g (float[2,8] x, float[8] b) => (float[2,8] y)
        { y = com.microsoft.FastGelu(x, b) }""",
    "fast-gelu-plain": "g (float[2,8] x) => (float[2,8] y) { y = com.microsoft.FastGelu(x) }",
    "bias-gelu": """g (float[2,8] x, float[8] b) => (float[2,8] y)
        { y = com.microsoft.BiasGelu(x, b) }""",
    "quick-gelu": """g (float[2,8] x) => (float[2,8] y)
        { y = com.microsoft.QuickGelu<alpha=1.5>(x) }""",
    "skip-layer-norm": """g (float[2,3,8] x, float[2,3,8] s, float[8] g, float[8] b, float[8] c)
        => (float[2,3,8] y, float[2,3,8] t)
        { y, , , t = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, s, g, b, c) }""",
    "skip-layer-norm-no-beta": """g (float[2,3,8] x, float[2,3,8] s, float[8] g) => (float[2,3,8] y)
        { y = com.microsoft.SkipLayerNormalization<epsilon=0.001>(x, s, g) }""",
    "simplified": """g (float[2,3,8] x, float[8] g) => (float[2,3,8] y)
        { y = SimplifiedLayerNormalization<axis=-1,epsilon=0.001,stash_type=1>(x, g) }""",
    "skip-simplified": """g (float[2,3,8] x, float[2,3,8] s, float[8] g)
        => (float[2,3,8] y, float[2,3,8] t)
        { y, , , t = com.microsoft.SkipSimplifiedLayerNormalization<epsilon=0.001>(x, s, g) }""",
    "fused-matmul": """g (float[2,4,3] a, float[2,4,5] b) => (float[2,3,5] y)
        { y = com.microsoft.FusedMatMul<alpha=0.25,transA=1>(a, b) }""",
    "fused-conv": """g (float[1,2,5,5] x, float[3,2,3,3] w, float[3] b, float[1,3,5,5] z)
        => (float[1,3,5,5] y)
        { y = com.microsoft.FusedConv<pads=[1,1,1,1],activation="Relu">(x, w, b, z) }""",
    "fused-conv-leaky": """g (float[1,2,5,5] x, float[3,2,3,3] w) => (float[1,3,3,3] y)
        { y = com.microsoft.FusedConv<activation="LeakyRelu",activation_params=[0.2]>(x, w) }""",
    "fused-gemm": """g (float[2,3] a, float[4,3] b, float[4] c) => (float[2,4] y)
        { y = com.microsoft.FusedGemm<transB=1,activation="LeakyRelu",
                                        activation_alpha=0.3>(a, b, c) }""",
}


@pytest.mark.parametrize("name", CONTRIB)
def test_contributed_operators_become_standard(name: str) -> None:
    proto = model(CONTRIB[name], 17, imports=', "com.microsoft" : 1')
    graph = check(proto, rtol=2e-6)
    assert {n.domain for n in graph.walk()} == {""}


def test_function_nodes_are_upgraded_from_their_own_opset() -> None:
    function = helper.make_function(
        "local",
        "Flat",
        ["x"],
        ["y"],
        [helper.make_node("Softmax", ["x"], ["y"], name="inner")],
        [helper.make_opsetid("", 11)],
    )
    proto = model(
        "g (float[2,3,4] x) => (float[2,3,4] y) { a = Softmax(x) y = local.Flat(a) }",
        17,
        imports=', "local" : 1',
    )
    proto.functions.append(function)
    graph = load(proto)
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    (found,) = run(to_model(graph), {"x": x})
    last = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    expected = np.exp(last) / np.exp(last).sum((1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
