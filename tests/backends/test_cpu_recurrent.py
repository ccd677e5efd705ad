"""Recurrent kernels against onnxruntime's operators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from tvm import tirx

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.recurrent import recurrent
from burnish.backends.cpu.recurrent_spec import (
    GATES,
    RecurrentSpec,
    pack_peepholes,
    pack_recurrent_bias,
    pack_recurrent_weights,
    supported_activations,
)
from tests.support.assembly import inner_loops
from tests.support.cpu_kernels import build, dirty, run

RNG = np.random.default_rng(17)
ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)


def _f32(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.6).astype("f4")


def _arrays(spec: RecurrentSpec) -> dict[str, np.ndarray]:
    d, g, h = spec.directions, spec.gates, spec.hidden
    arrays = {
        "X": _f32(*spec.sequence_shape(spec.inputs)),
        "W": _f32(d, g * h, spec.inputs),
        "R": _f32(d, g * h, h),
    }
    if spec.bias:
        arrays["B"] = _f32(d, 2 * g * h)
    if spec.sequence_lens:
        arrays["sequence_lens"] = RNG.integers(1, spec.length + 1, spec.batch).astype("i4")
        arrays["sequence_lens"][0] = spec.length
    if spec.initial_h:
        arrays["initial_h"] = _f32(*spec.state_shape())
    if spec.initial_c:
        arrays["initial_c"] = _f32(*spec.state_shape())
    if spec.peepholes:
        arrays["P"] = _f32(d, 3 * h)
    return arrays


def _reference(spec: RecurrentSpec, arrays: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Runs layout 0, the only one that onnxruntime has."""
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"]
    if spec.kind != "LSTM":
        names = names[:6]
    if spec.layout == 1:
        swap = ("X", "initial_h", "initial_c")
        arrays = {n: a.swapaxes(0, 1).copy() if n in swap else a for n, a in arrays.items()}
    attrs: dict[str, Any] = {"hidden_size": spec.hidden, "direction": spec.direction}
    if spec.kind == "GRU":
        attrs["linear_before_reset"] = int(spec.linear_before_reset)
    outputs = ["Y", "Y_h", "Y_c"][: 3 if spec.kind == "LSTM" else 2]
    node = helper.make_node(spec.kind, [n if n in arrays else "" for n in names], outputs, **attrs)
    infos = [
        helper.make_tensor_value_info(
            n, TensorProto.INT32 if a.dtype == np.int32 else TensorProto.FLOAT, a.shape
        )
        for n, a in arrays.items()
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph([node], "g", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    results = session.run(None, arrays)
    if spec.layout == 1:
        results = [results[0].transpose(2, 0, 1, 3), *(r.swapaxes(0, 1) for r in results[1:])]
    return results


def _inputs(spec: RecurrentSpec, arrays: dict[str, np.ndarray], isa: Isa) -> list[np.ndarray]:
    packed = [arrays["X"]]
    packed += [pack_recurrent_weights(arrays[n], spec.kind, isa) for n in "WR"]
    if spec.bias:
        packed.append(pack_recurrent_bias(arrays["B"], spec.kind, spec.linear_before_reset, isa))
    if spec.peepholes:
        packed.append(pack_peepholes(arrays["P"], isa))
    optional = ("sequence_lens", "initial_h", "initial_c")
    return packed + [arrays[n] for n in optional if n in arrays]


def _check(spec: RecurrentSpec, isa: Isa, library: Any = None) -> None:
    library = library or build({"k": recurrent(isa, spec)}, isa)
    arrays = _arrays(spec)
    want = [r for r, w in zip(_reference(spec, arrays), spec.outputs, strict=False) if w]
    got = run(library, "k", _inputs(spec, arrays, isa), [dirty(w.shape) for w in want])
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=3e-6)


def _outputs(kind: str) -> tuple[bool, bool, bool]:
    return (True, True, kind == "LSTM")


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "reverse": {"direction": "reverse"},
    "both": {"direction": "bidirectional", "initial_h": True},
    "no_bias": {"bias": False},
    "lengths": {"direction": "bidirectional", "sequence_lens": True},
    "layout": {"layout": 1, "direction": "bidirectional", "initial_h": True},
}


SIZES = [(7, 1, 10, 16), (5, 6, 3, 21)]


@pytest.mark.parametrize(
    ("isa", "case", "length", "batch", "inputs", "hidden"),
    [(AVX512, case, *size) for case in sorted(CASES) for size in SIZES]
    + [(AVX2, case, *SIZES[1]) for case in ("both", "lengths")],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU-linear", "RNN"])
def test_static(
    isa: Isa, case: str, kind: Any, length: int, batch: int, inputs: int, hidden: int
) -> None:
    base, _, linear = kind.partition("-")
    options = dict(CASES[case])
    if base == "LSTM" and options.get("initial_h"):
        options["initial_c"] = True
    spec = RecurrentSpec(
        base, length, batch, inputs, hidden,
        linear_before_reset=bool(linear), outputs=_outputs(base), **options,
    )  # fmt: skip
    _check(spec, isa)


@ISAS
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_symbolic(isa: Isa, kind: Any) -> None:
    t, b = tirx.Var("t", "int64"), tirx.Var("b", "int64")
    spec = RecurrentSpec(
        kind, t, b, 9, 20, "bidirectional", sequence_lens=True, outputs=_outputs(kind)
    )
    library = build({"k": recurrent(isa, spec)}, isa)
    for length, batch in [(1, 1), (5, 1), (6, 4), (13, 5), (2, 9)]:
        _check(replace(spec, length=length, batch=batch), isa, library)


@ISAS
@pytest.mark.parametrize("batch", [1, 3])
def test_peepholes(isa: Isa, batch: int) -> None:
    spec = RecurrentSpec(
        "LSTM", 6, batch, 5, 18, "bidirectional", initial_h=True, initial_c=True, peepholes=True
    )
    _check(spec, isa)


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, True), (False, True, False)]
)
def test_some_outputs(wanted: tuple[bool, bool, bool]) -> None:
    _check(RecurrentSpec("LSTM", 9, 2, 4, 17, outputs=wanted), AVX512)


def test_activations() -> None:
    assert supported_activations("LSTM", (), 2)
    assert supported_activations("GRU", ("Sigmoid", "Tanh", "sigmoid", "tanh"), 2)
    assert not supported_activations("RNN", ("Relu",), 1)
    assert set(GATES) == {"LSTM", "GRU", "RNN"}


@ISAS
@pytest.mark.parametrize("batch", [1, 4])
def test_products_stay_in_registers(isa: Isa, batch: int) -> None:
    spec = RecurrentSpec("LSTM", 50, batch, 64, 128, "bidirectional")
    library = build({"k": recurrent(isa, spec)}, isa)
    products = [x for x in inner_loops(library.inspect_source("asm")) if x.multiply_adds >= 8]
    assert len(products) >= 2
    assert sum(x.spills for x in products) == 0
