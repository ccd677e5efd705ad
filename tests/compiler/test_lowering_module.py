"""From graph to module: views, outputs that are other values, branches, shared kernels, weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from burnish.backends.registry import resolve_target
from burnish.errors import LoweringError
from burnish.lowering.module import ModuleLowering
from burnish.requests import CompileReport
from burnish.runtime import CompiledModel
from tests.support.bundle import Bundle, Case, compile_here
from tests.support.golden import parse

X = np.random.default_rng(3).standard_normal((2, 6)).astype(np.float32)

CASES = {
    "view_of_input": Case(
        "(float[2,6] x) => (float[3,4] y) <int64[2] s> { y = Reshape(x, s) }",
        weights={"s": np.array([3, 4])},
    ),
    "chain_of_views": Case(
        "(float[n,2,3] x) => (float[n,6] y) { one = Constant<value_ints=[1]>() a = Relu(x) "
        "b = Unsqueeze(a, one) c = Squeeze(b, one) y = Flatten(c) }",
        sizes={"n": 2},
    ),
    "input_as_output": Case("(float[2,3] x) => (float[2,3] y) { y = Identity(x) }"),
    "weight_as_output": Case(
        "(float[2,3] x) => (float[2,3] y, float[4] c) <float[4] w> { y = Relu(x) c = Identity(w) }"
    ),
    "output_twice": Case(
        "(float[2,3] x) => (float[2,3] y, float[2,3] z) { y = Relu(x) z = Identity(y) }"
    ),
    "output_and_view_of_it": Case(
        "(float[2,3] x) => (float[2,3] y, float[6] z) <int64[1] s> "
        "{ y = Relu(x) z = Reshape(y, s) }",
        weights={"s": np.array([-1])},
    ),
    "split": Case(
        "(float[2,9] x) => (float[2,4] y, float[2,5] z) "
        "{ s = Constant<value_ints=[4,5]>() a = Tanh(x) y, z = Split<axis=1>(a, s) }",
    ),
    "split_used_once": Case(
        "(float[2,9] x) => (float[2,4] y) "
        "{ s = Constant<value_ints=[4,5]>() y0, z = Split<axis=1>(x, s) y = Relu(y0) }"
    ),
    "same_layers": Case(
        "(float[3,8] x) => (float[3,8] y) <float[8,8] w1, float[8,8] w2> "
        "{ a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) y = Relu(c) }",
    ),
    "then": Case(
        "(float[2,3] x, bool p) => (float[2,3] y) { y = If(p) <then_branch = t () => (float[2,3] a)"
        " { a = Tanh(x) }, else_branch = e () => (float[2,3] b) { b = Relu(x) }> }",
        feeds={"p": np.array(True)},
    ),
    "else": Case(
        "(float[n,3] x, bool p) => (float[n,3] y) <float[3,3] w> { r = Exp(x) y = If(p) "
        "<then_branch = t () => (float[n,3] a) { a = Tanh(r) }, else_branch = e () => "
        "(float[n,3] b) { h = MatMul(r, w) b = Relu(h) }> }",
        sizes={"n": 2},
        feeds={"p": np.array(False)},
    ),
    "branch_gives_outer_value": Case(
        "(float[2,3] x, bool p) => (float[2,3] y) { r = Abs(x) y = If(p) <then_branch = t () => "
        "(float[2,3] a) { a = Identity(r) }, else_branch = e () => (float[2,3] b) "
        "{ b = Neg(r) }> }",
        feeds={"p": np.array(True)},
    ),
    "branch_gives_input": Case(
        "(float[2,3] x, bool p) => (float[2,3] y) { y = If(p) <then_branch = t () => "
        "(float[2,3] a) { a = Identity(x) }, else_branch = e () => (float[2,3] b) "
        "{ b = Neg(x) }> }",
        feeds={"p": np.array(True)},
    ),
    "branch_gives_constant": Case(
        "(float[2,3] x, bool p) => (float[2,3] y) <float[2,3] w> { y = If(p) <then_branch = t () "
        "=> (float[2,3] a) { a = Identity(w) }, else_branch = e () => (float[2,3] b) "
        "{ b = Neg(x) }> }",
        feeds={"p": np.array(True)},
    ),
    "two_results": Case(
        "(float[2,3] x, bool p) => (float[2,3] y, float[2,3] z) { y, z = If(p) <then_branch = t () "
        "=> (float[2,3] a, float[2,3] b) { a = Tanh(x) b = Exp(x) }, else_branch = e () => "
        "(float[2,3] c, float[2,3] d) { c = Relu(x) d = Neg(x) }> }",
        feeds={"p": np.array(False)},
    ),
    "nested": Case(
        "(float[2,3] x, bool p, bool q) => (float[2,3] y) { y = If(p) <then_branch = t () => "
        "(float[2,3] a) { r = Exp(x) a = If(q) <then_branch = tt () => (float[2,3] aa) "
        "{ aa = Tanh(r) }, else_branch = te () => (float[2,3] ab) { ab = Add(r, x) }> }, "
        "else_branch = e () => (float[2,3] b) { b = Relu(x) }> }",
        feeds={"p": np.array(True), "q": np.array(False)},
    ),
    "composite_in_a_branch": Case(
        "(float[1,2,4,5,6] x, bool p) => (float[1,3,4,5,6] y) <float[3,2,1,1,1] w> { y = If(p) "
        "<then_branch = t () => (float[1,3,4,5,6] a) { c = Conv(x, w) a = Relu(c) }, "
        "else_branch = e () => (float[1,3,4,5,6] b) { b = Conv(x, w) }> }",
        feeds={"p": np.array(True)},
        note="no kernel for layout",
    ),
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES)


@pytest.mark.parametrize("name", CASES)
def test_compiled(name: str, bundle: Bundle) -> None:
    bundle.check(name)


def test_equal_layers_share_a_kernel(bundle: Bundle) -> None:
    kernels = [n.kernel for n in bundle.nodes if n.nodes and n.nodes[0].startswith("same_layers/")]
    assert len(kernels) == 2
    assert len(set(kernels)) == 1


def test_symbols_do_not_make_kernels_different() -> None:
    cases = {
        name: Case(
            "(float[n,8] x) => (float[n,8] y) <float[8,8] w> { y = MatMul(x, w) }",
            sizes={"n": size},
        )
        for name, size in (("a", 2), ("b", 3))
    }
    bundle = Bundle(cases)
    assert bundle.report.kernels == 1
    for name in cases:
        bundle.check(name)


Compile = Callable[[str], tuple[CompiledModel, CompileReport]]


@pytest.fixture
def compiled(tmp_path: Path) -> Iterator[Compile]:
    opened: list[CompiledModel] = []

    def run(text: str) -> tuple[CompiledModel, CompileReport]:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 23]>\n{text}')
        found = compile_here(model, tmp_path)
        opened.append(found[0])
        return found

    yield run
    for model in opened:
        model.close()


def test_outputs_are_nobody_elses_memory(compiled: Compile) -> None:
    model, _ = compiled(
        "g (float[2,6] x) => (float[2,6] a, float[3,4] b, float[2,6] c, float[12] d, float[2] e) "
        "<int64[2] s = {3, 4}, int64[1] f = {12}, float[2] w = {1.0, 2.0}> "
        "{ a = Identity(x) b = Reshape(x, s) c = Relu(x) d = Reshape(c, f) e = Identity(w) }"
    )
    x = X.copy()
    first = model.run(None, {"x": x})
    kept = [np.array(v) for v in first]
    x[:] = 7
    for value, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(value, copy, err_msg="an output is the input's memory")
    first[2][:] = 9
    np.testing.assert_array_equal(first[3], kept[3], err_msg="two outputs share memory")
    first[4][:] = 5
    again = model.run(None, {"x": X})
    np.testing.assert_array_equal(again[4], [1, 2], err_msg="an output is the weight's memory")


def test_weights_are_stored_once(compiled: Compile) -> None:
    data = ", ".join(f"{(i % 13) / 13:.3f}" for i in range(256))
    model, report = compiled(
        f"g (float[n,16] x) => (float[n,16] y) <float[16,16] w = {{{data}}}> "
        "{ a = MatMul(x, w) b = Exp(a) y = MatMul(b, w) }"
    )
    assert report.weight_bytes == 16 * 16 * 4
    assert len(model.manifest.weights) == 1


def lower(text: str) -> ModuleLowering:
    lowering = ModuleLowering(parse(text), resolve_target("x86"))
    lowering.run()
    return lowering


def test_calls_name_the_original_nodes() -> None:
    graph = parse("g (float[4,8] x) => (float[4,8] y) { y = Softmax(x) }")
    lowering = ModuleLowering(graph, resolve_target("x86"))
    lowering.run()
    (call,) = lowering.calls
    assert (call.node, call.outputs, call.dtype) == ("Softmax", ("y",), "float32")
    assert call.names == graph.nodes[0].location.names


def test_packing_waits_until_the_data_are_wanted() -> None:
    graph = parse("g (float[4,8] x) => (float[4,8] y) <float[8,8] w> { y = burnish.MatMul(x, w) }")
    (value,) = graph.constants()
    assert value.const is not None
    array, asked = value.array, []

    def data() -> np.ndarray:
        asked.append(1)
        return array

    value.const._array = data
    lowering = ModuleLowering(graph, resolve_target("x86"))
    lowering.run()
    assert not asked
    (weight,) = lowering.weights
    packed = weight.data()
    assert asked
    assert (packed.shape, str(packed.dtype)) == (weight.shape, weight.dtype)
    assert packed.nbytes == weight.nbytes


def test_error_names_the_node() -> None:
    with pytest.raises(LoweringError, match="has no lowering") as error:
        lower("g (float[2,4] x) => (float[2,4] y) { y = Frobnicate(x) }")
    assert "Frobnicate" in str(error.value)
