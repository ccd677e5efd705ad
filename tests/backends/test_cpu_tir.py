"""The builder layer: arguments, symbols, masked access, reductions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.isa import AVX2, AVX512, ISAS, Isa, isa_named
from burnish.errors import CompileError, TargetUnavailableError
from tests.support.cpu_kernels import build_module


def build(kernel: tir.Kernel, isa: Isa) -> Any:
    func = kernel.func.with_attr("global_symbol", "main")
    return build_module({"main": func}, isa)


def nd(a: np.ndarray) -> Any:
    return tvm.runtime.tensor(a)


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
def test_symbols_become_scalars(isa: Isa) -> None:
    m, s = tirx.Var("m", "int64"), tirx.Var("s", "int64")
    with tir.kernel("k", isa) as k:
        x = k.input("x", (m, s * 2))
        y = k.output("y", (s * 2, m))
        with tir.parallel(m) as i, tir.serial(s * 2) as j:
            y.store(y.offset(j, i), x.load(x.offset(i, j)) * 2.0)
    assert [v.name for v in k.result.scalars] == ["s"]
    a = np.random.default_rng(0).standard_normal((5, 6)).astype("f4")
    out = nd(np.zeros((6, 5), "f4"))
    build(k.result, isa)["main"](nd(a), out, 3)
    np.testing.assert_array_equal(out.numpy(), a.T * 2)


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
@pytest.mark.parametrize("n", [1, 3, 8, 13, 16])
def test_masked_access_stays_inside(isa: Isa, n: int) -> None:
    n = min(n, isa.lanes)
    count = tirx.Var("n", "int64")
    with tir.kernel("k", isa) as k:
        x = k.input("x", (count,))
        y = k.output("y", (count, 2))
        fixed = tir.load(x.flat, 0, isa.lanes, n, fill=3.0)
        tir.store(y.flat, 0, fixed + tir.constant(1.0, isa.lanes), n)
        dynamic = tir.load(x.flat, 0, isa.lanes, count)
        tir.store(y.flat, count, dynamic, count)
    a = np.arange(1, n + 1, dtype="f4")
    # One page would fault only by luck: check that the neighbours keep their values.
    room = np.full(2 * n + 32, 7, "f4")
    out = nd(room[: 2 * n].reshape(n, 2).copy())
    build(k.result, isa)["main"](nd(a), out)
    np.testing.assert_array_equal(out.numpy().reshape(-1), np.concatenate([a + 1, a]))


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
def test_unaligned_arguments(isa: Isa) -> None:
    with tir.kernel("k", isa) as k:
        x = k.input("x", (isa.lanes,))
        y = k.output("y", (isa.lanes,))
        y.store(0, x.load(0, isa.lanes) + tir.constant(1.0, isa.lanes))
    asm = build(k.result, isa).inspect_source("asm")
    assert "vmovups" in asm
    body = asm.split("vaddps")[1].split("ret")[0]
    assert "vmovaps" not in body


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda i: i.name)
def test_reductions(isa: Isa) -> None:
    with tir.kernel("k", isa) as k:
        x = k.input("x", (isa.lanes,))
        y = k.output("y", (3,))
        v = x.load(0, isa.lanes)
        y.store(0, tir.reduce_add(v))
        y.store(1, tir.reduce_max(v))
        y.store(2, tir.reduce_min(v))
    a = np.random.default_rng(0).standard_normal(isa.lanes).astype("f4")
    out = nd(np.zeros(3, "f4"))
    build(k.result, isa)["main"](nd(a), out)
    np.testing.assert_allclose(out.numpy(), [a.sum(), a.max(), a.min()], rtol=1e-5)


def test_static_arithmetic_stays_python() -> None:
    assert tir.ceildiv(7, 2) == 4
    assert tir.minimum(3, 4) == 3
    assert tir.maximum(3, 4) == 4
    assert tir.static(tirx.const(5, "int64")) == 5
    with tir.kernel("k", AVX512) as k:
        x = k.input("x", (2, 3, 4))
        y = k.output("y", (2,))
        assert x.size == 24
        assert x.strides == (12, 4, 1)
        assert x.offset(1, 2) == 20
        y.store(0, x.load(0))
    assert k.result.scalars == ()


def test_errors() -> None:
    with pytest.raises(TargetUnavailableError, match="avx9"):
        isa_named("avx9")
    assert isa_named("avx2") is ISAS["avx2"]
    with tir.kernel("k", AVX512) as k:
        y = k.output("y", (2,))
        with pytest.raises(CompileError, match="stack array"):
            tir.local(256)
        with pytest.raises(CompileError, match="before it was finished"):
            _ = k.result
        y.store(0, tir.constant(1.0))
