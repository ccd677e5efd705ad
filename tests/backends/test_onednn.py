"""oneDNN's operations against float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm

from burnish.backends.x86 import X86
from burnish.ir.postops import BINARY, UNARY, PostOp, parse_postops
from tests.support import reference
from tests.support.cpu_kernels import Array, dirty

MISSING = X86.libraries["onednn"]()
if MISSING is not None:
    pytest.skip(MISSING.message, allow_module_level=True)

from burnish.backends.x86.onednn.operations import (  # noqa: E402  (it needs the library)
    Operation,
    Operations,
    implementation,
)
from burnish.backends.x86.onednn.postops import (  # noqa: E402
    epilogue,
    refuse_postops,
)

RNG = np.random.default_rng(11)
#: All that oneDNN has.
SUPPORTED = sorted(set(UNARY) - {"Erf"})


def randn(*shape: int) -> Array:
    return RNG.standard_normal(shape, dtype=np.float32)


def open_session(*operations: Operation) -> Callable[[int], Any]:
    """The functions of a list of operations, by position."""
    listed = Operations()
    names = [listed.add(operation) for operation in operations]
    session = listed.module()["burnish.open_session"]()
    return lambda index: session[names[index]]


def call(function: Any, arguments: Sequence[Array], shape: Sequence[int]) -> Array:
    """Call an operation on arrays."""
    result = tvm.runtime.tensor(dirty(shape))
    function(*(tvm.runtime.tensor(np.ascontiguousarray(a)) for a in arguments), result)
    found: Array = result.numpy()
    return found


def make(
    kind: str,
    postops: Sequence[PostOp] = (),
    *,
    bias: bool = True,
    **geometry: int | tuple[int, ...],
) -> Operation:
    first, steps = epilogue(postops, bias=bias)
    return Operation(kind, "f32", "f32", "f32", first, steps, geometry)


def operands(postops: Sequence[PostOp], shape: Sequence[int]) -> list[Array]:
    """An operand for each binary post-op; none is near zero."""
    sizes = {"channel": shape[-1:], "full": shape, "scalar": (1,)}
    return [randn(*sizes[p.operand]) + 3 for p in postops if p.operand]


def matmul(k: int, n: int, postops: Sequence[PostOp] = (), block: int = 0) -> Operation:
    return make("matmul", postops, depth=k, columns=n, column_block=block or n)


def check_matmul(
    lead: Sequence[int], k: int, n: int, texts: Sequence[str] = (), block: int = 0
) -> None:
    postops = parse_postops(texts)
    x, w = randn(*lead, k), randn(k, n) / np.float32(k**0.5)
    more = operands(postops, (*lead, n))
    found = call(open_session(matmul(k, n, postops, block))(0), [x, w, *more], (*lead, n))
    want = reference.postops(x.astype("f8") @ w.astype("f8"), postops, more)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 5, 1), (3, 7, 2), (13, 33, 3), (7, 64, 16), (97, 40, 88), (50, 17, 130), (8, 1, 200)],
)
def test_products_of_all_sizes(m: int, k: int, n: int) -> None:
    check_matmul((m,), k, n, ["Add:channel", "Relu"])


@pytest.mark.parametrize("n", [256, 257, 300, 640])
def test_columns_are_computed_block_by_block(n: int) -> None:
    check_matmul((2, 3), 31, n, ["Add:channel", "Add:full", "Mul:channel", "Sub:scalar"], 128)


@pytest.mark.parametrize("op", SUPPORTED)
def test_unary_postops(op: str) -> None:
    params = {"Clip": (-0.5, 1.25), "HardSigmoid": (0.3, 0.4), "LeakyRelu": (0.1,), "Elu": (0.7,)}
    text = PostOp(op, "", params.get(op, ())).encode()
    # A root wants what is not negative.
    check_matmul((9,), 20, 33, ["Abs", text] if op == "Sqrt" else ["Add:channel", text])


@pytest.mark.parametrize("operand", ["channel", "full", "scalar"])
@pytest.mark.parametrize("op", BINARY)
def test_binary_postops(op: str, operand: str) -> None:
    check_matmul((2, 5), 20, 33, [f"{op}:{operand}", "Relu"])


def test_many_postops_keep_their_order() -> None:
    texts = ["Add:channel", "Mul:full", "Relu", "Add:full", "Div:scalar", "Tanh", "Sub:channel"]
    check_matmul((11,), 24, 40, texts)


def test_a_limit_may_be_infinite() -> None:
    check_matmul((4,), 8, 16, ["Clip:0.25:inf"])


def test_what_onednn_has_no_postop_for_is_refused() -> None:
    refused = refuse_postops(parse_postops(["Relu", "Erf"]))
    assert refused is not None
    assert "Erf" in refused.reason
    assert refuse_postops(parse_postops(["Add:channel", "Gelu"])) is None


def test_one_operation_serves_all_numbers_of_rows() -> None:
    function = open_session(matmul(24, 40, parse_postops(["Add:channel"]), 16))(0)
    w, b = randn(24, 40), randn(40)
    # More sizes than it keeps primitives for, and the first one again.
    for rows in [*range(1, 40), 1, 17, 0]:
        x = randn(rows, 24)
        found = call(function, [x, w, b], (rows, 40))
        np.testing.assert_allclose(found, x.astype("f8") @ w + b, rtol=2e-5, atol=2e-5)


def test_weights_are_packed_once() -> None:
    function = open_session(matmul(24, 40))(0)
    x, w = randn(6, 24), tvm.runtime.tensor(randn(24, 40))
    first, second = (tvm.runtime.tensor(dirty((6, 40))) for _ in range(2))
    function(tvm.runtime.tensor(x), w, first)
    w.copyfrom(randn(24, 40))
    function(tvm.runtime.tensor(x), w, second)
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_other_weights_are_packed_anew() -> None:
    function = open_session(matmul(24, 40))(0)
    x = randn(6, 24)
    kept = []
    for _ in range(3):
        w = tvm.runtime.tensor(randn(24, 40))
        kept.append(w)
        result = tvm.runtime.tensor(dirty((6, 40)))
        function(tvm.runtime.tensor(x), w, result)
        want = x.astype("f8") @ w.numpy()
        np.testing.assert_allclose(result.numpy(), want, rtol=2e-5, atol=2e-5)


def check_conv(
    shape: tuple[int, int, int, int],
    filters: int,
    kernel: tuple[int, int],
    texts: Sequence[str] = (),
    **attributes: Any,
) -> None:
    postops = parse_postops(texts)
    groups = attributes.get("groups", 1)
    geometry = {
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
        "groups": 1,
    } | attributes
    x = randn(*shape)
    w = randn(filters, shape[-1] // groups, *kernel) / np.float32((w_size(shape, kernel)) ** 0.5)
    plain = reference.conv(x, w, **geometry)
    more = operands(postops, plain.shape)
    operation = make(
        "conv",
        postops,
        channels_in=shape[-1] // groups,
        channels_out=filters,
        kernel=kernel,
        **geometry,
    )
    found = call(open_session(operation)(0), [x, w, *more], plain.shape)
    want = reference.postops(plain, postops, more)
    np.testing.assert_allclose(found, want, rtol=3e-5, atol=3e-5)


def w_size(shape: tuple[int, ...], kernel: tuple[int, int]) -> int:
    return shape[-1] * kernel[0] * kernel[1]


@pytest.mark.parametrize(
    ("shape", "filters", "kernel", "attributes"),
    [
        ((1, 9, 7, 16), 32, (1, 1), {}),
        ((2, 9, 7, 3), 17, (3, 3), {"pads": (1, 1, 1, 1)}),
        ((1, 11, 13, 5), 8, (3, 2), {"strides": (2, 3), "pads": (0, 1, 2, 0)}),
        ((1, 12, 12, 4), 6, (3, 3), {"dilations": (2, 3), "pads": (2, 3, 2, 3)}),
        ((1, 8, 8, 24), 24, (3, 3), {"groups": 24, "pads": (1, 1, 1, 1)}),
        ((2, 8, 8, 24), 24, (5, 5), {"groups": 24, "pads": (2, 2, 2, 2), "strides": (2, 2)}),
        ((1, 8, 8, 12), 18, (3, 3), {"groups": 3, "pads": (1, 1, 1, 1)}),
        ((1, 1, 30, 8), 16, (1, 5), {"pads": (0, 2, 0, 2)}),
        ((1, 1, 30, 8), 16, (1, 5), {"strides": (1, 2), "dilations": (1, 3)}),
        ((3, 6, 1, 4), 4, (3, 1), {}),
    ],
)
def test_convolutions(
    shape: tuple[int, int, int, int],
    filters: int,
    kernel: tuple[int, int],
    attributes: dict[str, Any],
) -> None:
    check_conv(shape, filters, kernel, ["Add:channel", "Add:full", "Relu"], **attributes)


@pytest.mark.parametrize("op", SUPPORTED)
def test_unary_postops_of_convolutions(op: str) -> None:
    params = {"Clip": (-0.5, 1.25), "HardSigmoid": (0.3, 0.4), "LeakyRelu": (0.1,), "Elu": (0.7,)}
    text = PostOp(op, "", params.get(op, ())).encode()
    texts = ["Abs", text] if op == "Sqrt" else ["Add:channel", text]
    check_conv((1, 6, 6, 16), 20, (3, 3), texts)


@pytest.mark.parametrize("operand", ["channel", "full", "scalar"])
@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("groups", [1, 16])
def test_binary_postops_of_convolutions(op: str, operand: str, groups: int) -> None:
    check_conv((2, 6, 6, 16), 16, (3, 3), [f"{op}:{operand}", "Relu"], groups=groups)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("texts", [[], ["Mul:scalar", "Add:full", "Add:channel", "Relu"]])
def test_products_of_two_computed_tensors(transposed: bool, shared: bool, texts: list[str]) -> None:
    postops = parse_postops(texts)
    a = randn(2, 3, 10, 12)
    b = randn(1, 1, 12, 21) if shared else randn(2, 3, 12, 21)
    more = operands(postops, (2, 3, 10, 21))
    operation = make("batch_matmul", postops, bias=False, transposed=int(transposed))
    right = np.swapaxes(b, -1, -2) if transposed else b
    found = call(open_session(operation)(0), [a, right, *more], (2, 3, 10, 21))
    want = reference.postops(a.astype("f8") @ b.astype("f8"), postops, more)
    np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)


def test_threads_may_call_one_operation_at_once() -> None:
    shapes = [(1, 9, 9, 16), (2, 9, 9, 16), (1, 5, 14, 16)]
    operation = make(
        "conv",
        parse_postops(["Add:channel", "Add:full", "Gelu"]),
        groups=1,
        channels_in=16,
        channels_out=24,
        kernel=(3, 3),
        strides=(1, 1),
        dilations=(1, 1),
        pads=(1, 1, 1, 1),
    )
    function = open_session(operation)(0)
    w, b = (tvm.runtime.tensor(randn(*s)) for s in ((24, 16, 3, 3), (24,)))

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for round_ in range(60):
            n, h, width, _ = shape = shapes[(seed + round_) % len(shapes)]
            x, full = rng.standard_normal(shape, "f4"), rng.standard_normal((n, h, width, 24), "f4")
            result = tvm.runtime.tensor(dirty(full.shape))
            function(tvm.runtime.tensor(x), w, b, tvm.runtime.tensor(full), result)
            if round_ % 20 == 0:
                plain = reference.conv(x, w.numpy(), pads=(1, 1, 1, 1))
                ops = parse_postops(["Add:channel", "Add:full", "Gelu"])
                want = reference.postops(plain, ops, [b.numpy(), full])
                np.testing.assert_allclose(result.numpy(), want, rtol=1e-4, atol=1e-4)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_sessions_do_not_share_weights() -> None:
    listed = Operations()
    name = listed.add(matmul(8, 16))
    library = listed.module()
    x = randn(2, 8)
    for _ in range(2):
        w = randn(8, 16)
        session = library["burnish.open_session"]()
        found = call(session[name], [x, w], (2, 16))
        np.testing.assert_allclose(found, x @ w, rtol=2e-5, atol=2e-5)


def test_the_wrong_number_of_tensors_is_an_error() -> None:
    function = open_session(matmul(8, 16))(0)
    with pytest.raises(TypeError, match="onednn_matmul_1 takes 3 tensors, got 2"):
        call(function, [randn(2, 8)], (2, 16))


def test_the_implementation_is_known_before_it_is_built() -> None:
    assert "brg" in implementation(matmul(64, 64), (64,), "avx512")
    mixed = replace(matmul(64, 64), source="s8", weights="bf16")
    assert implementation(mixed, (64,), "avx512") == ""


def test_a_damaged_list_of_operations_is_an_error() -> None:
    library = tvm.get_global_func("burnish.onednn.library")
    row = matmul(8, 16).to_dict("product")
    with pytest.raises(RuntimeError, match="has no field 'depth'"):
        library(json.dumps([{k: v for k, v in row.items() if k != "depth"}]).encode())
    with pytest.raises(RuntimeError, match="'cube', which is not known"):
        library(json.dumps([row | {"kind": "cube"}]).encode())
