"""Activations that are only as exact as 8 bits need."""

from __future__ import annotations

import math

import numpy as np
import pytest

from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from burnish.backends.cpu.near import ERROR, LEAST_STEP, NEAR, ends_near
from burnish.backends.cpu.tir import kernel, serial
from burnish.ir.postops import parse_postops
from tests.support.cpu_kernels import dirty, run_once


def exact(op: str, x: np.ndarray) -> np.ndarray:
    """The activation in float64."""
    if op == "Gelu":
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("op", NEAR)
def test_error(isa: Isa, op: str) -> None:
    inside, outside = np.linspace(-6, 6, 16 * 2048), np.array([-1e30, -100, -20, 20, 100, 1e30, 0])
    x = np.concatenate([inside, np.resize(outside, 16)]).astype(np.float32)
    with kernel("near", isa) as k:
        a, y = k.input("a", x.shape), k.output("y", x.shape)
        with serial(x.size // isa.lanes) as i:
            y.store(i * isa.lanes, NEAR[op](a.load(i * isa.lanes, isa.lanes)))
    (found,) = run_once(k.result, isa, [x], [dirty(x.shape)])
    want = exact(op, x.astype(np.float64))
    assert np.all(np.abs(found - want) <= ERROR + 3e-6 * np.abs(want))


def test_only_results_of_coarse_steps_end_near() -> None:
    gelu = parse_postops(["Add:channel", "Gelu"])
    assert ends_near(gelu, LEAST_STEP)
    assert not ends_near(gelu, LEAST_STEP / 2)
    assert not ends_near(parse_postops(["Gelu", "Mul:scalar"]), 1.0)
    assert not ends_near(parse_postops(["Tanh", "Gelu"]), 1.0)
    assert not ends_near((), 1.0)
