"""Sizes that depend on data: operands that are inputs, results as long as the data say, loops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish.backends.registry import resolve_target
from burnish.errors import InvalidInputError, RunError, UnsupportedOpError
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering.prepare import prepare
from burnish.runtime import CompiledModel
from tests.support.bundle import Bundle, Case, compile_here
from tests.support.golden import parse

RNG = np.random.default_rng(5)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def bits(*shape: int) -> np.ndarray:
    return RNG.random(shape) < 0.4


REPEATED = RNG.integers(0, 4, (5, 3)).astype(np.float32)
BOXES = np.sort(RNG.random((2, 7, 2, 2)), axis=2).reshape(2, 7, 4).astype(np.float32)
SCORES = RNG.random((2, 3, 7)).astype(np.float32)
NAN = np.array([2, np.nan, 1, np.nan, 2], np.float32)

OPERANDS = {
    "reshape": Case("(float[2,6] x, int64[3] s) => (float[a,b,c] y) { y = Reshape(x, s) }",
                    feeds={"s": ints(0, -1, 2)}),
    "reshape_then_use": Case(
        "(float[n,6] x, int64[2] s) => (float[a,b] y) <float[4,5] w> "
        "{ r = Reshape(x, s) e = Exp(r) y = MatMul(e, w) }",
        sizes={"n": 2}, feeds={"s": ints(3, 4)}),
    "expand": Case("(float[3,1] x, int64[3] s) => (float[a,b,c] y) { y = Expand(x, s) }",
                   feeds={"s": ints(2, 1, 4)}),
    "tile": Case("(float[2,3] x, int64[2] r) => (float[a,b] y) { y = Tile(x, r) }",
                 feeds={"r": ints(2, 3)}),
    "slice": Case(
        "(float[5,6] x, int64[2] b, int64[2] e, int64[2] a, int64[2] s) => (float[p,q] y) "
        "{ y = Slice(x, b, e, a, s) }",
        feeds={"b": ints(-1, 1), "e": ints(-100, 5), "a": ints(0, -1), "s": ints(-2, 3)}),
    "pad": Case(
        "(float[3,4] x, int64[2] p, float v, int64[1] a) => (float[3,c] y) { y = Pad(x, p, v, a) }",
        feeds={"p": ints(-1, 2), "a": ints(1), "v": np.array(2.5, np.float32)}),
    "pad_reflect": Case(
        '(float[3,4] x, int64[4] p) => (float[b,c] y) { y = Pad<mode = "reflect">(x, p) }',
        feeds={"p": ints(1, 2, 0, 1)}),
    "range": Case("(int64 a, int64 b, int64 d) => (int64[n] y) { y = Range(a, b, d) }",
                  feeds={"a": np.array(7), "b": np.array(-2), "d": np.array(-2)}),
    "range_of_floats": Case("(float a, float b, float d) => (float[n] y) { y = Range(a, b, d) }",
                            feeds={k: np.array(v, np.float32)
                                   for k, v in (("a", 0.5), ("b", 2.6), ("d", 0.7))}),
    "constant_of_shape": Case(
        "(int64[2] s) => (float[a,b] y) { y = ConstantOfShape<value = float[1] {3.5}>(s) }",
        feeds={"s": ints(2, 3)}),
    "one_hot": Case("(int64[4] i, int64 d, float[2] v) => (float[4,n] y) { y = OneHot(i, d, v) }",
                    feeds={"i": ints(0, 2, 1, 3), "d": np.array(5)}),
    "top_k": Case("(float[3,6] x, int64[1] k) => (float[3,a] y, int64[3,b] z) "
                  "{ y, z = TopK(x, k) }", feeds={"k": ints(4)}),
    "split": Case("(float[6,2] x, int64[2] s) => (float[a,2] y, float[b,2] z) "
                  "{ y, z = Split<axis = 0>(x, s) }", feeds={"s": ints(2, 4)}),
    "unsqueeze": Case("(float[2,3] x, int64[2] a) => (float[p,q,r,s] y) { y = Unsqueeze(x, a) }",
                      feeds={"a": ints(-1, 1)}),
    "squeeze": Case("(float[1,3,1] x, int64[1] a) => (float[p,q] y) { y = Squeeze(x, a) }",
                    feeds={"a": ints(-1)}),
    "resize_by_scales": Case(
        '(float[1,2,3,4] x, float[4] s) => (float[1,2,h,w] y) '
        '{ y = Resize<mode = "linear">(x, , s) }',
        feeds={"s": np.array([1, 1, 2, 1.5], np.float32)}),
    "resize_smoothly": Case(
        '(float[1,2,6,8] x, float[4] s) => (float[1,2,h,w] y) '
        '{ y = Resize<mode = "cubic", antialias = 1>(x, , s) }',
        feeds={"s": np.array([1, 1, 0.5, 0.3], np.float32)}),
    "resize_to_sizes": Case(
        "(float[1,2,3,4] x, int64[4] s) => (float[1,2,h,w] y) { y = Resize(x, , , s) }",
        feeds={"s": ints(1, 2, 5, 2)}),
    "reduce": Case("(float[2,3,4] x, int64[2] a) => (float[p,q,r] y, float[s] z) "
                   "{ y = ReduceMean(x, a) z = ReduceMax<keepdims = 0>(x, a) }",
                   feeds={"a": ints(-1, 0)}),
    "reduce_by_no_axes": Case(
        "(float[2,3] x, int64[0] a) => (float[1,1] y) { y = ReduceSum(x, a) }",
        feeds={"a": ints()}),
    "cumsum": Case("(float[2,3,4] x, int64 a) => (float[2,3,4] y) { y = CumSum(x, a) }",
                   feeds={"a": np.array(1)}),
    "computed_operand": Case(
        "(float[n,6] x, int64[1] k) => (float[p,q] y) <int64[1] m> "
        "{ s = Concat<axis = 0>(k, m) y = Reshape(x, s) }",
        sizes={"n": 4}, feeds={"k": ints(3)}, weights={"m": ints(-1)}),
}  # fmt: skip

AS_MANY_AS_THERE_ARE = {
    "non_zero": Case("(bool[3,4] x) => (int64[2,n] y) { y = NonZero(x) }",
                     feeds={"x": bits(3, 4)}),
    "gather_what_is_not_zero": Case(
        "(float[5,4] x, bool[5] m) => (float[n,3] y) <float[4,3] w> { i = NonZero(m) "
        "t = Transpose<perm = [1, 0]>(i) g = GatherND(x, t) y = MatMul(g, w) }",
        feeds={"m": np.array([1, 0, 1, 1, 0], bool)}),
    "size_of_the_result": Case(
        "(float[6] x, bool[6] m) => (float[1] y, float[n] z) { c = Compress(x, m) s = Shape(c) "
        "f = Cast<to = 1>(s) y = Sqrt(f) z = Div(c, f) }", feeds={"m": bits(6)}),
    "compress_flat": Case("(float[2,3] x, bool[4] m) => (float[n] y) { y = Compress(x, m) }",
                          feeds={"m": np.array([0, 1, 1, 0], bool)}),
    "compress_axis": Case(
        "(float[2,3] x, bool[3] m) => (float[2,n] y) { y = Compress<axis = -1>(x, m) }",
        feeds={"m": np.array([1, 0, 1], bool)}),
    "unique": Case("(float[5,3] x) => (float[n] y, int64[n] i, int64[15] r, int64[n] c) "
                   "{ y, i, r, c = Unique(x) }", feeds={"x": REPEATED}),
    "unique_as_they_come": Case(
        "(float[5,3] x) => (float[n] y, int64[15] r) { y, i, r = Unique<sorted = 0>(x) }",
        feeds={"x": REPEATED}),
    "unique_rows": Case(
        "(int64[6,2] x) => (int64[n,2] y, int64[n] i, int64[6] r, int64[n] c) "
        "{ y, i, r, c = Unique<axis = 0>(x) }",
        feeds={"x": np.array([[2, 1], [0, 5], [2, 1], [0, 4], [0, 5], [2, 1]])}),
    "unique_columns": Case(
        "(float[2,4] x) => (float[2,n] y) { y = Unique<axis = 1>(x) }",
        feeds={"x": np.array([[1, 0, 1, 0], [3, 2, 3, 1]], np.float32)}),
    "boxes": Case(
        "(float[2,7,4] b, float[2,3,7] s) => (int64[n,3] y) "
        "<int64 k, float i, float t> { y = NonMaxSuppression(b, s, k, i, t) }",
        feeds={"b": BOXES, "s": SCORES},
        weights={"k": np.array(3), "i": np.array(0.3, np.float32),
                 "t": np.array(0.4, np.float32)}),
    "centered_boxes": Case(
        "(float[2,7,4] b, float[2,3,7] s, int64 k) => (int64[n,3] y) <float i> "
        "{ y = NonMaxSuppression<center_point_box = 1>(b, s, k, i) }",
        feeds={"b": BOXES, "s": SCORES, "k": np.array(9)},
        weights={"i": np.array(0.2, np.float32)}),
}  # fmt: skip

LOOPS = {
    "carried": Case(
        "(int64 n, float[3] x) => (float[3] y) { y = Loop(n, , x) <body = b (int64 i, bool c, "
        "float[3] a) => (bool d, float[3] e) { d = Identity(c) e = Add(a, x) }> }",
        feeds={"n": np.array(4)}),
    "while": Case(
        "(float x) => (float y, float[n] z) <bool t, float limit> { y, z = Loop(, t, x) <body = b "
        "(int64 i, bool c, float a) => (bool d, float e, float s) "
        "{ e = Add(a, a) s = Identity(e) d = Less(e, limit) }> }",
        feeds={"x": np.array(1.5, np.float32)},
        weights={"t": np.array(True), "limit": np.array(40, np.float32)}),
    "growing": Case(
        "(int64 n, float[2] x) => (float[m] y) { y = Loop(n, , x) <body = b (int64 i, bool c, "
        "float[k] a) => (bool d, float[l] e) { d = Identity(c) e = Concat<axis = 0>(a, x) }> }",
        feeds={"n": np.array(3)}),
    "condition_that_ends_it": Case(
        "(int64 n, float[3] x) => (float[3] y, float[m,3] z) <int64 two> { y, z = Loop(n, , x) "
        "<body = b (int64 i, bool c, float[3] a) => (bool d, float[3] e, float[3] s) "
        "{ d = Less(i, two) e = Sub(a, x) s = Exp(e) }> }",
        feeds={"n": np.array(9), "x": np.float32([1, 2, -1])}, weights={"two": np.array(2)}),
    "convolution_in_a_loop": Case(
        "(int64 n, float[1,4,6,5] x) => (float[1,4,6,5] y) <float[4,4,3,3] w, float[4] o> { y = "
        "Loop(n, , x) <body = b (int64 i, bool c, float[1,4,6,5] a) => (bool d, float[1,4,6,5] e) "
        "{ d = Identity(c) f = Conv<pads = [1, 1, 1, 1]>(a, w, o) g = Relu(f) e = Add(a, g) }> }",
        feeds={"n": np.array(3)}),
    "collected": Case(
        "(int64 n, float[2,2] x) => (float[2,2] y, float[m,2,2] z) { y, z = Loop(n, , x) <body = b "
        "(int64 i, bool c, float[2,2] a) => (bool d, float[2,2] e, float[2,2] s) "
        "{ d = Identity(c) f = Cast<to = 1>(i) e = MatMul(a, x) s = Mul(e, f) }> }",
        feeds={"n": np.array(3), "x": np.array([[0.5, 1], [-1, 0.5]], np.float32)}),
    "nested": Case(
        "(int64 n, float[2] x) => (float[2] y) { y = Loop(n, , x) <body = b (int64 i, bool c, "
        "float[2] a) => (bool d, float[2] e) { d = Identity(c) e = Loop(n, , a) <body = g "
        "(int64 j, bool h, float[2] k) => (bool l, float[2] m) { l = Identity(h) "
        "t = Tanh(k) m = Add(t, x) }> }> }", feeds={"n": np.array(3)}),
    "branch_in_a_loop": Case(
        "(int64 n, float[2] x) => (float[2] y) <int64 two> { y = Loop(n, , x) <body = b (int64 i, "
        "bool c, float[2] a) => (bool d, float[2] e) { d = Identity(c) q = Less(i, two) "
        "e = If(q) <then_branch = t () => (float[2] f) { f = Exp(a) }, "
        "else_branch = u () => (float[2] g) { g = Sub(a, x) }> }> }",
        feeds={"n": np.array(4)}, weights={"two": np.array(2)}),
    "sizes_in_a_loop": Case(
        "(int64 n, float[4] x) => (float[4] y, float[m,1] z) <float[1] zero> "
        "{ y, z = Loop(n, , x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] e, "
        "float[1] s) { d = Identity(c) p = Greater(a, zero) q = Compress(a, p) r = Exp(q) "
        "s = ReduceSum(r) e = Sub(a, s) }> }",
        feeds={"n": np.array(3)}, weights={"zero": np.zeros(1, np.float32)}),
    "scan": Case(
        "(float[2] s, float[5,2] x) => (float[2] y, float[5,2] z) { y, z = "
        "Scan(s, x) <num_scan_inputs = 1, body = b (float[2] a, float[2] v) => "
        "(float[2] e, float[2] w) { e = Add(a, v) w = Tanh(e) }> }"),
    "scan_backwards_along_other_axes": Case(
        "(float[2] s, float[2,n] x, float[n,2] u) => (float[2] y, float[2,n] z) { y, z = Scan(s, "
        "x, u) <num_scan_inputs = 2, scan_input_axes = [1, 0], scan_input_directions = [1, 0], "
        "scan_output_axes = [-1], scan_output_directions = [1], body = b (float[2] a, "
        "float[2] v, float[2] t) => (float[2] e, float[2] w) { f = Mul(a, v) e = Add(f, t) "
        "w = Sub(e, v) }> }", sizes={"n": 4}),
    "branches_of_different_shapes": Case(
        "(float[2,3] x, bool p) => (float[m] y, float[m] z) <int64[1] flat, int64[1] two> { y = "
        "If(p) <then_branch = t () => (float[6] a) { a = Reshape(x, flat) }, else_branch = e () => "
        "(float[2] b) { g = ReduceSum<keepdims = 0>(x, two) b = Exp(g) }> z = Neg(y) }",
        feeds={"p": np.array(True)}, weights={"flat": ints(-1), "two": ints(1)}),
    "sizes_in_a_branch": Case(
        "(float[5] x, bool p) => (float[m] y) <float[1] zero> { y = If(p) <then_branch = t () => "
        "(float[k] a) { q = Greater(x, zero) a = Compress(x, q) }, else_branch = e () => "
        "(float[5] b) { b = Neg(x) }> }",
        feeds={"p": np.array(True)}, weights={"zero": np.zeros(1, np.float32)}),
}  # fmt: skip

CASES = OPERANDS | AS_MANY_AS_THERE_ARE | LOOPS


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES)


@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str, bundle: Bundle) -> None:
    bundle.check(name)


Compile = Callable[[str], CompiledModel]


@pytest.fixture
def compiled(tmp_path: Path) -> Iterator[Compile]:
    opened: list[CompiledModel] = []

    def run(text: str) -> CompiledModel:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\n{text}')
        opened.append(compile_here(model, tmp_path, check=False)[0])
        return opened[-1]

    yield run
    for model in opened:
        model.close()


def test_every_run_has_sizes_of_its_own(compiled: Compile) -> None:
    model = compiled(
        "g (float[n,3] x, int64[1] k) => (float[a,b] y) <int64[1] m = {-1}> "
        "{ s = Concat<axis = 0>(k, m) e = Exp(x) y = Reshape(e, s) }"
    )
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    for k in (1, 2, 3, 4, 6, 12):
        (y,) = model.run(None, {"x": x, "k": ints(k)})
        np.testing.assert_allclose(y, np.exp(x).reshape(k, -1), rtol=1e-5)


def test_results_without_elements(compiled: Compile) -> None:
    model = compiled(
        "g (float[5,6] x, int64[1] b, int64[1] e, float[3] z) => (float[p,6] y, int64[1,n] i, "
        "float[n] c) { y = Slice(x, b, e) i = NonZero(z) m = Cast<to = 9>(z) c = Compress(z, m) }"
    )
    x = RNG.standard_normal((5, 6)).astype(np.float32)
    y, i, c = model.run(None, {"x": x, "b": ints(3), "e": ints(2), "z": np.zeros(3, np.float32)})
    assert (y.shape, i.shape, c.shape) == ((0, 6), (1, 0), (0,))
    y, i, c = model.run(None, {"x": x, "b": ints(1), "e": ints(3), "z": np.float32([0, 5, 7])})
    np.testing.assert_array_equal(y, x[1:3])
    np.testing.assert_array_equal(i, [[1, 2]])
    np.testing.assert_array_equal(c, [5, 7])


def test_a_loop_without_iterations(compiled: Compile) -> None:
    model = compiled(
        "g (int64 n, float[3] x) => (float[3] y, float[p,3] z) { y, z = Loop(n, , x) <body = b "
        "(int64 i, bool c, float[3] a) => (bool d, float[3] e, float[3] s) "
        "{ d = Identity(c) e = Exp(a) s = Neg(a) }> }"
    )
    x = np.float32([1, -2, 3])
    for count in (0, -5):
        y, z = model.run(None, {"n": np.array(count), "x": x})
        np.testing.assert_array_equal(y, x)
        assert z.shape == (0, 3)
    y, z = model.run(None, {"n": np.array(1), "x": x})
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-5)
    np.testing.assert_array_equal(z, [-x])


def test_axes_of_size_one_that_nobody_listed(compiled: Compile) -> None:
    model = compiled("g (float[n,1,3] x) => (float[m,3] y) { e = Exp(x) y = Squeeze(e) }")
    x = RNG.standard_normal((2, 1, 3)).astype(np.float32)
    (y,) = model.run(None, {"x": x})
    np.testing.assert_allclose(y, np.exp(x)[:, 0], rtol=1e-5)
    with pytest.raises(InvalidInputError, match="n >= 2 must hold"):
        model.run(None, {"x": x[:1]})


def test_results_of_a_loop_are_nobody_elses_memory(compiled: Compile) -> None:
    model = compiled(
        "g (int64 n, float[3] x) => (float[3] y, float[3] z, float[m,3] s) <float[3] w = "
        "{1.0, 2.0, 3.0}> { y, z, s = Loop(n, , x, x) <body = b (int64 i, bool c, float[3] a, "
        "float[3] u) => (bool d, float[3] e, float[3] f, float[3] g) { d = Identity(c) "
        "e = Identity(a) f = Identity(w) g = Identity(a) }> }"
    )
    for count in (0, 1, 3):
        x = RNG.standard_normal(3).astype(np.float32)
        kept = x.copy()
        y, z, s = model.run(None, {"n": np.array(count), "x": x})
        y[:], z[:], s[:] = 7, 8, 9
        np.testing.assert_array_equal(x, kept)
        y, z, s = model.run(None, {"n": np.array(count), "x": x})
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(z, [1, 2, 3] if count else x)
        np.testing.assert_array_equal(s, [x] * count if count else np.zeros((0, 3)))


def test_two_compilations_are_the_same(tmp_path: Path) -> None:
    cases = {"loop": LOOPS["sizes_in_a_loop"], "reduce": OPERANDS["reduce"]}
    model = Bundle(cases).model
    made = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        compile_here(model, folder, check=False)[0].close()
        made.append((folder / "model.burnish" / "model.so").read_bytes())
    assert made[0] == made[1]


def test_equal_nans_are_one_value(compiled: Compile) -> None:
    """As numpy and the reference of ONNX have it; onnxruntime calls every NaN different."""
    model = compiled("g (float[5] x) => (float[n] y, int64[n] c) { y, i, r, c = Unique(x) }")
    y, c = model.run(None, {"x": NAN})
    np.testing.assert_array_equal(y, np.array([1, 2, np.nan], np.float32))
    np.testing.assert_array_equal(c, [1, 2, 2])


@pytest.mark.parametrize(
    ("text", "feeds", "message"),
    [
        ("(float[2,6] x, int64[2] s) => (float[a,b] y) { y = Reshape(x, s) }",
         {"s": ints(5, -1)}, r"Reshape.* gives \[-1, -1\]"),
        ("(float[2,6] x, int64[1] k) => (float[2,a] y, int64[2,b] i) { y, i = TopK(x, k) }",
         {"k": ints(7)}, r"6 >= topk_0 must hold for TopK.* 6 and 7"),
        ("(float[2,6] x, int64[2] s) => (float[a,b] y) { y = Tile(x, s) }",
         {"s": ints(2, -3)}, r"Tile.* gives \[2, -3\]"),
        ("(float[2,6] x, int64[1] a) => (float[p] y) { y = ReduceSum<keepdims = 0>(x, a) }",
         {"a": ints(2)}, "ReduceSum"),
        ("(float[2,6,1] x, int64[1] a) => (float[p,q] y) { y = Squeeze(x, a) }",
         {"a": ints(0)}, "Squeeze"),
        ("(float[6] x, int64[1] b, int64[1] e, int64[1] a, int64[1] s) => (float[p] y) "
         "{ y = Slice(x, b, e, a, s) }",
         {"b": ints(0), "e": ints(3), "a": ints(0), "s": ints(0)}, "Slice"),
        ("(int64 a, int64 b, int64 x) => (int64[p] y) { y = Range(a, b, x) }",
         {"a": np.array(0), "b": np.array(3), "x": np.array(0)}, "Range"),
        ("(float[4] x, bool[4] m) => (float[p] y) { c = Compress(x, m) y = Add(c, x) }",
         {"m": np.array([1, 1, 0, 0], bool)}, "compress|nonzero.* must hold for Add"),
        ("(float[6] x, int64[2] s) => (float[a] y, float[b] z) { y, z = Split(x, s) }",
         {"s": ints(1, 4)}, "Split"),
    ],
)  # fmt: skip
def test_data_that_ask_for_the_impossible(
    text: str, feeds: dict[str, np.ndarray], message: str, compiled: Compile
) -> None:
    model = compiled(f"g {text}")
    given = {i.name: i for i in model.get_inputs()}
    if "x" not in feeds:
        shape = [d for d in given["x"].shape if isinstance(d, int)]
        feeds = {**feeds, "x": RNG.standard_normal(shape).astype(np.float32)}
    with pytest.raises(RunError, match=message):
        model.run(None, feeds)


def test_a_loop_that_collects_different_shapes_fails(compiled: Compile) -> None:
    model = compiled(
        "g (int64 n, float[2] x) => (float[m] y, float[p,q] z) { y, z = Loop(n, , x) <body = b "
        "(int64 i, bool c, float[k] a) => (bool d, float[l] e, float[r] s) { d = Identity(c) "
        "e = Concat<axis = 0>(a, x) s = Identity(e) }> }"
    )
    x = np.ones(2, np.float32)
    with pytest.raises(RunError, match=r"\[4\] in its first iteration and \[6\]"):
        model.run(None, {"n": np.array(2), "x": x})
    y, z = model.run(None, {"n": np.array(1), "x": x})
    assert (y.shape, z.shape) == ((4,), (1, 4))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "(float[2,6] x) => (int64[2,m] y) { r = Relu(x) y = NonZero(r) }",
            "1 x NonZero: no lowering for this operator",
        ),
        (
            "(int64 n, float[2] x) => (float[2] y) { y = Loop(n, , x) <body = b (int64 i, bool c, "
            "float[2] a) => (bool d, float[2] e) { d = Identity(c) e = Exp(a) }> }",
            "1 x Loop: loops run on CPUs only",
        ),
    ],
)
def test_refused_where_the_host_cannot_read_sizes(text: str, reason: str) -> None:
    target = resolve_target("x86")
    blind = dataclasses.replace(
        target, backend=dataclasses.replace(target.backend, host_sizes=False)
    )
    with pytest.raises(UnsupportedOpError, match=reason):
        prepare(parse(f"g {text}"), blind)


def test_static_graphs_stay_as_they_are() -> None:
    graph = parse("g (float[n,6] x, bool p) => (float[n,6] y) { y = Softmax(x) }")
    prepare(graph, resolve_target("x86"))
    assert [node.domain for node in graph.nodes] == [""]
    dynamic = parse("g (float[n,6] x) => (int64[2,m] y) { y = NonZero(x) }")
    prepare(dynamic, resolve_target("x86"))
    assert {node.domain for node in dynamic.nodes} == {DOMAIN}
