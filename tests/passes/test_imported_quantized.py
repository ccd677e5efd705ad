"""Models that come quantized: whatever their form is, products compute in integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from burnish.ir import Graph
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.pipelines import pipeline
from tests.support.golden import parse
from tests.support.quantization import keys, optimized, same

RNG = np.random.default_rng(5)


def codes(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Random codes of the whole range."""
    low, high = (0, 256) if dtype == "uint8" else (-128, 128)
    return RNG.integers(low, high, shape).astype(dtype)


def numbers(array: Any) -> str:
    """A constant in ONNX's text syntax."""
    return "{" + ",".join(str(v) for v in np.asarray(array).reshape(-1)) + "}"


def become(text: str, feeds: dict[str, Any], wanted: dict[str, int], step: float = 0.0) -> Graph:
    """Optimize a graph: its products are those ``wanted``, and its results the same."""
    graph = optimized(parse(text, seed=2))
    found = keys(graph)
    products = ("QConv", "QMatMul", "Conv", "MatMul", "BatchMatMul")
    assert {k: found[k] for k in (f"burnish::{p}" for p in products) if found[k]} == wanted
    left = {"QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger", "Conv", "MatMul"}
    assert left.isdisjoint(found)
    same(parse(text, seed=2), graph, feeds, step)
    return graph


QLINEAR_CONV = f"""g (uint8[1,4,6,7] x) => (uint8[1,8,3,4] y)
<float xs = {{0.0517}}, uint8[1] xz = {{120}}, int8[8,4,3,3] w = {numbers(codes(8, 4, 3, 3, dtype="int8"))},
 float[8] ws = {{0.01,0.02,0.003,0.004,0.05,0.006,0.01,0.01}}, int8[8] wz = {{0,0,0,0,0,0,0,0}},
 float[1] ys = {{1.07}}, uint8 yz = {{99}}, int32[8] c = {{100,-200,300,-400,500,-600,700,-8000}}> {{
    y = QLinearConv<pads=[1,1,1,1],strides=[2,2]>(x, xs, xz, w, ws, wz, ys, yz, c)
}}"""  # noqa: E501


def test_qlinear_conv_becomes_one_integer_convolution() -> None:
    graph = become(QLINEAR_CONV, {"x": codes(1, 4, 6, 7)}, {"burnish::QConv": 1}, step=1)
    (node,) = (n for n in graph.nodes if n.op == "QConv")
    assert node.str_attr("y_dtype") == "uint8"
    assert node.strs_attr("postops") == ("Add:channel",)
    assert "QuantizeLinear" not in keys(graph)


QLINEAR_MATMUL = f"""g (uint8[2,5,6] x) => (uint8[2,5,7] y)
<float[1] xs = {{0.0517}}, uint8[1] xz = {{120}}, uint8[6,7] w = {numbers(codes(6, 7))},
 float WS, uint8 WZ, float ys = {{1.07}}, uint8 yz = {{99}}> {{
    y = QLinearMatMul(x, xs, xz, w, ws, wz, ys, yz)
}}"""


@pytest.mark.parametrize(
    ("scale", "zero", "products"),
    [
        ("ws = {0.03}", "wz = {128}", 1),
        ("ws = {0.03}", "wz = {17}", 2),
        (
            "[7] ws = {0.03,0.04,0.02,0.01,0.05,0.02,0.01}",
            "[7] wz = {17,0,128,255,100,130,140}",
            2,
        ),
    ],
    ids=["around-zero", "one-side", "columns"],
)
def test_qlinear_matmul(scale: str, zero: str, products: int) -> None:
    text = QLINEAR_MATMUL.replace(" WS", scale if scale[0] == "[" else f" {scale}")
    text = text.replace(" WZ", zero if zero[0] == "[" else f" {zero}")
    become(text, {"x": codes(2, 5, 6)}, {"burnish::QMatMul": products}, step=1)


DYNAMIC = f"""g (float[3,6] x) => (float[3,5] y)
<uint8[6,5] w = {numbers(codes(6, 5))}, float[5] ws = {{0.01,0.02,0.03,0.04,0.05}},
 uint8[5] wz = {{ZERO}}, float[5] c = {{1.0,2.0,-3.0,4.0,-5.0}}> {{
    q, s, z = DynamicQuantizeLinear(x)
    p = MatMulInteger(q, w, z, wz)
    f = Cast<to=1>(p)
    t = Mul(s, ws)
    m = Mul(f, t)
    y = Add(m, c)
}}"""


@pytest.mark.parametrize(("zero", "products"), [("128,128,128,128,128", 1), ("128,3,200,255,0", 2)])
def test_dynamic_products(zero: str, products: int) -> None:
    x = RNG.standard_normal((3, 6)).astype(np.float32)
    text = DYNAMIC.replace("ZERO", zero)
    graph = become(text, {"x": x}, {"burnish::QMatMul": products})
    assert all(n.str_attr("y_dtype") == "float32" for n in graph.nodes if n.op == "QMatMul")


SUMS = """g (T[2,3,6] x ZERO) => (int32[2,3,5] y)
<U[6,5] w = WEIGHTS CONSTANTS> {
    y = MatMulInteger(x, w OPERANDS)
}"""


@pytest.mark.parametrize("x", ["uint8", "int8"])
@pytest.mark.parametrize("w", ["uint8", "int8"])
@pytest.mark.parametrize("zero", ["none", "constant", "computed"])
@pytest.mark.parametrize("w_zero", ["none", "one", "columns"])
def test_sums_of_products_are_exact(x: str, w: str, zero: str, w_zero: str) -> None:
    inputs, constants, operands = "", "", ""
    if zero == "computed":
        inputs, operands = f", {x}[1] z", ", z"
    elif zero == "constant":
        constants, operands = f", {x} z = {{77}}", ", z"
    if w_zero != "none":
        points = [100] if w_zero == "one" else [100, -100 if w == "int8" else 5, 0, 127, 1]
        shape = "" if w_zero == "one" else "[5]"
        constants += f", {w}{shape} wz = {numbers(points)}"
        operands = (operands or ", ") + ", wz"
    text = SUMS.replace("T[", f"{x}[").replace("U[", f"{w}[").replace("ZERO", inputs)
    text = text.replace("WEIGHTS", numbers(codes(6, 5, dtype=w)))
    text = text.replace("CONSTANTS", constants).replace("OPERANDS", operands)
    feeds = {"x": codes(2, 3, 6, dtype=x), "z": np.array([-9 if x == "int8" else 200], x)}
    if zero != "computed":
        del feeds["z"]
    found = keys(optimized(parse(text, seed=2)))
    products = found["burnish::QMatMul"]
    assert found["MatMulInteger"] == 0
    assert products == (1 if w == "int8" and w_zero == "none" else 2)
    become(text, feeds, {"burnish::QMatMul": products})


def notes_of(text: str) -> tuple[list[str], dict[str, str]]:
    """The notes of the passes, and why nodes stay in floating point."""
    graph, context = parse(text, seed=2), PassContext()
    records = PassManager(pipeline(3, integers=True), verify_ir=True).run(graph, context)
    return [note for record in records for note in record.notes], context.kept


def product(weights: str, data: str = "DequantizeLinear(q, s, z)", op: str = "MatMul") -> str:
    """A product of an activation and weights as given, with constants for both."""
    return f"""g (uint8[4,6] q, uint16[4,6] q16, float[4,6] f) => (float[4,5] y)
<float s = {{0.05}}, uint8 z = {{9}}, uint16 z16 = {{9}}, int8[6,5] w = {numbers(codes(6, 5, dtype="int8"))},
 int8[5,6] wt = {numbers(codes(5, 6, dtype="int8"))}, float ws = {{0.02}},
 float[6] rows = {{0.1,0.2,0.1,0.3,0.2,0.1}}, float[5] columns = {{0.1,0.2,0.1,0.3,0.2}}> {{
    a = {data}
    b = {weights}
    y = {op}(a, b)
}}"""  # noqa: E501


VOLUME = """g (uint8[1,8,6,5,4] q) => (float[1,8,6,5,4] y)
<float s = {0.05}, uint8 z = {9}, int8[8,8,1,1,1] w, float ws = {0.02}> {
    a = DequantizeLinear(q, s, z)
    b = DequantizeLinear(w, ws)
    y = Conv(a, b)
}"""


#: A layer whose weights are dequantized, after a Transpose or by hand.
RECURRENT = """g (float[3,1,4] x) => (float[3,1,1,2] y)
<int8[1,GATES,4] w, int8[1,2,GATES] r, float s = {0.02}> {
    a = DequantizeLinear(w, s)
    b = Cast<to=1>(r)
    c = Mul(b, s)
    d = Transpose<perm=[0,2,1]>(c)
    y = OP<hidden_size=2>(x, a, d)
}"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            product("DequantizeLinear(w, ws)", "DequantizeLinear(q16, s, z16)"),
            "MatMul of quantized tensors in floating point: the type is uint16",
        ),
        (
            product("DequantizeLinear<axis=0>(w, rows)"),
            "the weights' scales do not lie along the output channels",
        ),
        (VOLUME, "it has not 1 or 2 spatial axes"),
        (product("DequantizeLinear(w, ws)", "Relu(f)"), "its activation is not quantized"),
        (
            RECURRENT.replace("GATES", "8").replace("OP", "LSTM"),
            "quantized tensors in floating point: recurrent operators have no integer kernel",
        ),
        (
            RECURRENT.replace("GATES", "6").replace("OP", "GRU"),
            "recurrent operators have no integer kernel",
        ),
    ],
    ids=["16-bit", "rows", "volume", "activation", "lstm", "gru"],
)
def test_what_stays_in_floating_point_has_its_reason(text: str, reason: str) -> None:
    notes, kept = notes_of(text)
    assert any(reason in note for note in notes), notes
    assert any(reason.endswith(why) for why in kept.values())


ACTIVATIONS = """g (uint8[2,4,6] q, int8[RIGHT] r, float[2,6,5] f) => (TYPE y)
<float s = {0.05}, uint8 z = {9}, float t = {0.2}, int8 u = {-7}> {
    a = DequantizeLinear(q, s, z)
    b = DequantizeLinear(r, t, u)
    STEP
}"""


@pytest.mark.parametrize("stored", [True, False])
def test_products_of_two_activations(stored: bool) -> None:
    step = "m = MatMul(a, b) y = QuantizeLinear(m, t, u)" if stored else "y = MatMul(a, b)"
    text = (
        ACTIVATIONS.replace("STEP", step).replace("RIGHT", "2,6,5").replace(", float[2,6,5] f", "")
    )
    text = text.replace("TYPE", "int8[2,4,5]" if stored else "float[2,4,5]")
    feeds = {"q": codes(2, 4, 6), "r": codes(2, 6, 5, dtype="int8")}
    graph = become(text, feeds, {}, step=1.0 if stored else 0.0)
    assert keys(graph) == {"burnish::QBatchMatMul": 1}


@pytest.mark.parametrize(("right", "step"), [("2,6,5", "MatMul(a, f)"), ("6,5", "MatMul(a, b)")])
def test_products_of_two_activations_have_their_reason(right: str, step: str) -> None:
    text = ACTIVATIONS.replace("STEP", f"y = {step}").replace("RIGHT", right)
    notes, _ = notes_of(text.replace("TYPE", "float[2,4,5]"))
    reason = "an operand is not quantized, or there are different numbers of matrices"
    assert any(reason in note for note in notes), notes


@pytest.mark.parametrize("codes_of", ["int8[5,6] wt", "uint8[5,6] wt"])
def test_scaled_products(codes_of: str) -> None:
    text = product("DequantizeLinear<axis=0>(wt, columns)", op="Gemm<transB=1,alpha=2.0>")
    dtype = codes_of.split("[")[0]
    i = text.index("int8[5,6] wt")
    stop = text.index("}", i) + 1
    text = text[:i] + f"{codes_of} = {numbers(codes(5, 6, dtype=dtype))}" + text[stop:]
    text = text.replace(", uint16[4,6] q16, float[4,6] f", "")
    become(text, {"q": codes(4, 6)}, {"burnish::QMatMul": 1 if dtype == "int8" else 2})


@pytest.mark.parametrize("form", ["QLinearConv", "ConvInteger"])
def test_automatic_padding(form: str) -> None:
    if form == "QLinearConv":
        text = QLINEAR_CONV.replace("pads=[1,1,1,1]", 'auto_pad="SAME_LOWER"')
        become(text, {"x": codes(1, 4, 6, 7)}, {"burnish::QConv": 1}, step=1)
        return
    text = CONV_SUMS.replace("pads=[1,0,1,1]", 'auto_pad="SAME_UPPER"').replace("W[", "uint8[")
    text = text.replace("T[", "uint8[").replace("T z", "uint8 z").replace("W wz", "uint8 wz")
    text = text.replace("{-100}", "{90}").replace("GROUP", "1").replace("IN,", "6,")
    text = text.replace("WEIGHTS", numbers(codes(6, 6, 3, 3)))
    feeds = {"x": codes(1, 6, 5, 7), "z": np.array(200, np.uint8)}
    become(text, feeds, {"burnish::QConv": 2})


WEIGHTS = {
    "transposed": "Transpose<perm=[1,0]>(d)|DequantizeLinear<axis=0>(wt, columns)",
    "rounded": "DequantizeLinear(d, columns, zeros)|QuantizeLinear(f, columns, zeros)",
    "cast": "Mul(d, columns)|Cast<to=1>(w)",
    "shifted": "Mul(columns, d)|Sub(c, shift)|Cast<to=1>(w)",
    "reshaped": "Reshape(d, shape)|DequantizeLinear<axis=2>(w3, columns)",
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_forms_of_weights(name: str) -> None:
    last, *before = WEIGHTS[name].split("|")
    # Steps are written backwards; the first is `c` if there are two.
    steps = "\n".join(f"{to} = {step}" for to, step in zip("dc", before, strict=False))
    steps = "\n".join(reversed(steps.split("\n")))
    text = f"""g (uint8[4,6] q) => (float[4,5] y)
<float s = {{0.05}}, uint8 z = {{9}}, int8[6,5] w = {numbers(codes(6, 5, dtype="int8"))},
 int8[5,6] wt = {numbers(codes(5, 6, dtype="int8"))}, float[6,5] f, float[1] shift = {{99.0}},
 int8[2,3,5] w3 = {numbers(codes(2, 3, 5, dtype="int8"))}, int64[2] shape = {{6,5}},
 float[5] columns = {{0.1,0.2,0.1,0.3,0.2}}, int8[5] zeros = {{0,0,0,0,0}}> {{
    a = DequantizeLinear(q, s, z)
    {steps}
    b = {last}
    y = MatMul(a, b)
}}"""
    products = 2 if name == "shifted" else 1
    become(text, {"q": codes(4, 6)}, {"burnish::QMatMul": products})


@pytest.mark.parametrize("scale", ["one = {0.02}", "[5] one = {0.1,0.2,0.1,0.3,0.2}", "rows"])
def test_tables_of_embeddings_are_read_as_they_are_stored(scale: str) -> None:
    rows = f"[7,1] one = {numbers(RNG.uniform(0.01, 0.2, 7).round(3))}"
    scale = rows if scale == "rows" else scale
    text = f"""g (int64[2,3] i) => (float[2,3,5] y)
<int8[7,5] w = {numbers(codes(7, 5, dtype="int8"))}, float{scale if scale[0] == "[" else " " + scale}> {{
    c = Cast<to=1>(w)
    d = Mul(c, one)
    y = Gather(d, i)
}}"""  # noqa: E501
    graph = become(text, {"i": RNG.integers(0, 7, (2, 3))}, {})
    constants = {str(v.type) for n in graph.nodes for v in n.inputs if v is not None and v.is_const}
    assert "int8[7,5]" in constants
    assert "float32[7,5]" not in constants


CONV_DYNAMIC = f"""g (float[1,4,6,7] x) => (float[1,5,6,7] y)
<U[8,4,3,3] w = {numbers(codes(8, 4, 3, 3, dtype="int8"))}, U wz = {{ZERO}}, float ws = {{0.01}},
 U[5,8,1,1] v = {numbers(codes(5, 8, 1, 1, dtype="int8"))}, float[1,8,1,1] c> {{
    q, s, z = DynamicQuantizeLinear(x)
    p = ConvInteger<pads=[1,1,1,1]>(q, w, z, wz)
    f = Cast<to=1>(p)
    t = Mul(s, ws)
    m = Mul(f, t)
    a = Add(m, c)
    r = Relu(a)
    q1, s1, z1 = DynamicQuantizeLinear(r)
    p1 = ConvInteger(q1, v, z1, wz)
    f1 = Cast<to=1>(p1)
    t1 = Mul(s1, ws)
    y = Mul(f1, t1)
}}""".replace("U[", "int8[").replace("U wz", "int8 wz")


@pytest.mark.parametrize(("zero", "products"), [(0, 2), (-20, 4)])
def test_dynamic_convolutions_stay_in_one_layout(zero: int, products: int) -> None:
    x = RNG.standard_normal((1, 4, 6, 7)).astype(np.float32)
    text = CONV_DYNAMIC.replace("ZERO", str(zero))
    graph = become(text, {"x": x}, {"burnish::QConv": products}, step=1e-5)
    # The last group of elementwise operators transposes what it stores.
    assert keys(graph)["Transpose"] == 1
    assert {n.str_attr("data_format") for n in graph.nodes if n.op == "QConv"} == {"NHWC"}


CONV_SUMS = """g (T[1,6,5,7] x, T z) => (int32[1,6,3,4] y)
<W[6,IN,3,3] w = WEIGHTS, W wz = {-100}> {
    y = ConvInteger<pads=[1,0,1,1],strides=[2,2],group=GROUP>(x, w, z, wz)
}"""


@pytest.mark.parametrize("group", [1, 6])
@pytest.mark.parametrize("x", ["uint8", "int8"])
@pytest.mark.parametrize("w", ["uint8", "int8"])
def test_sums_of_convolutions_are_exact(x: str, w: str, group: int) -> None:
    inner = 6 // group
    text = CONV_SUMS.replace("T[", f"{x}[").replace("T z", f"{x} z").replace("W[", f"{w}[")
    text = text.replace("W wz", f"{w} wz").replace(
        "WEIGHTS", numbers(codes(6, inner, 3, 3, dtype=w))
    )
    text = text.replace("IN,", f"{inner},").replace("GROUP", str(group))
    text = text.replace("-100", "100") if w == "uint8" else text
    feeds = {"x": codes(1, 6, 5, 7, dtype=x), "z": np.array(-9 if x == "int8" else 200, x)}
    become(text, feeds, {"burnish::QConv": 2})


HALF = f"""g (uint8[1,4,6,5] q) => (uint8[1,3,3,2] y, float16[1,4,3,2] p)
<float16 s = {{10854}}, uint8 z = {{9}}, int8[3,4,1,1] w = {numbers(codes(3, 4, 1, 1, dtype="int8"))},
 float16[3] columns = {{11878,12902,11878}}, float16[3] c = {{15872,-13056,20352}}, float16 t = {{16640}}> {{
    a = DequantizeLinear(q, s, z)
    p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(a)
    b = DequantizeLinear<axis=0>(w, columns)
    m = Conv(p, b, c)
    r = Relu(m)
    y = QuantizeLinear(r, t, z)
}}"""  # noqa: E501


def test_models_in_float16_compute_in_integers() -> None:
    graph = optimized(parse(HALF, seed=2))
    (node,) = (n for n in graph.nodes if n.op == "QConv")
    assert node.str_attr("y_dtype") == "uint8"
    assert node.strs_attr("postops") == ("Add:channel", "Relu")
    same(parse(HALF, seed=2), graph, {"q": codes(1, 4, 6, 5)}, step=1)
