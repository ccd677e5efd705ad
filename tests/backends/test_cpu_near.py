"""Activations that are only as exact as 8 bits need."""

from __future__ import annotations

import math

import numpy as np
import pytest

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.near import NEAR, PIECES, Gated, Near, Pieces, near_last
from burnish.backends.cpu.tir import kernel, serial
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import dirty, run_once


def exact(op: str, x: np.ndarray) -> np.ndarray:
    """The activation in float64."""
    if op == "Gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def errors(isa: Isa, op: str, near: Gated | Pieces) -> tuple[np.ndarray, np.ndarray]:
    """Absolute errors, and what would have been exact."""
    inside, outside = np.linspace(-6, 6, 16 * 2048), np.array([-1e30, -100, -20, 20, 100, 1e30, 0])
    x = np.concatenate([inside, np.resize(outside, 16)]).astype(np.float32)
    with kernel("near", isa) as k:
        a, y = k.input("a", x.shape), k.output("y", x.shape)
        with serial(x.size // isa.lanes) as i:
            y.store(i * isa.lanes, near(a.load(i * isa.lanes, isa.lanes), 0.25))
    (found,) = run_once(k.result, isa, [x], [dirty(x.shape)])
    want = exact(op, x.astype(np.float64))
    return np.abs(found * 0.25 - want), np.abs(want)


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize(("op", "row"), [(op, row) for op, rows in NEAR.items() for row in rows])
def test_error(isa: Isa, op: str, row: Gated) -> None:
    error, size = errors(isa, op, row)
    assert np.all(error <= row.error + 1e-5 * size)


@pytest.mark.parametrize("op", PIECES)
def test_error_of_pieces(op: str) -> None:
    error, size = errors(AVX512, op, PIECES[op])
    assert np.all(error <= PIECES[op].error + 1e-6 * size)


def test_pieces_keep_what_is_no_number() -> None:
    x = np.resize(np.array([np.nan, np.inf, -np.inf, 1.0], np.float32), 16)
    with kernel("near", AVX512) as k:
        a, y = k.input("a", x.shape), k.output("y", x.shape)
        y.store(0, PIECES["Gelu"](a.load(0, 16), 0.5))
    (found,) = run_once(k.result, AVX512, [x], [dirty(x.shape)])
    assert np.isnan(found[0])
    assert found[1:3].tolist() == [np.inf, pytest.approx(0, abs=1e-3)]


def test_results_of_coarse_steps_end_near() -> None:
    gelu = parse_postops(["Add:channel", "Gelu"])
    coarse, fine = NEAR["Gelu"]
    assert near_last(gelu, 0.1) == Near(coarse, PIECES["Gelu"])
    assert near_last(gelu, 100 * PIECES["Gelu"].error) == Near(fine, PIECES["Gelu"])
    assert near_last(gelu, 100 * fine.error) == Near(fine, None)
    assert near_last(gelu, 50 * fine.error) is None
    assert near_last(parse_postops(["Gelu", "Mul:scalar"]), 1.0) is None
    assert near_last(parse_postops(["Tanh", "Gelu"]), 1.0) is None
    assert near_last((), 1.0) is None
