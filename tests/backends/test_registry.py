"""Which backends there are, and what a spelling resolves to."""

from __future__ import annotations

import dataclasses
import sys
import types

import pytest

from burnish.backends import x86
from burnish.backends.registry import BACKENDS, VARIABLE, backends, resolve_target
from burnish.backends.x86 import X86
from burnish.errors import UsageError

TOY = dataclasses.replace(X86, name="toy", specs={"toy": "a line of help"})


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("a_toy_backend")
    module.TOY = TOY  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_own_backends_claim_each_spelling_once() -> None:
    specs = [spec for backend in BACKENDS for spec in backend.specs]
    assert len(specs) == len(set(specs))


def test_backend_of_the_environment(
    plugin: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f" {plugin.__name__}:TOY ,")
    assert backends() == (*BACKENDS, TOY)
    monkeypatch.delenv(VARIABLE)
    assert backends() == BACKENDS


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:TOY", "cannot be loaded: No module named 'no_such_module'"),
        ("a_toy_backend:NONE", "cannot be loaded: .*NONE"),
        ("a_toy_backend", "cannot be loaded"),
        (":TOY", "cannot be loaded"),
        ("a_toy_backend:__name__", f"{VARIABLE} names a str, not a burnish.backends.base.Backend"),
        ("burnish.backends.x86:X86", "claims the target x86, which is the backend x86's"),
    ],
)
def test_name_that_leads_to_no_backend(
    plugin: types.ModuleType, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(UsageError, match=message):
        backends()


@pytest.mark.parametrize("spec", ["riscv", "x86:haswell", "x86-64-v4:zen5", ""])
def test_unknown_spelling(spec: str) -> None:
    with pytest.raises(UsageError, match="unknown target") as error:
        resolve_target(spec)
    assert "x86-64-v4" in str(error.value.hint)


@pytest.mark.parametrize(
    ("level", "dots"),
    [
        ("x86-64-v4-bf16", "vnni"),
        ("x86-64-v4-vnni", "vnni"),
        ("x86-64-v4", "avx512bw"),
        ("x86-64-v3", "avx2"),
    ],
)
def test_best_level_of_a_cpu(monkeypatch: pytest.MonkeyPatch, level: str, dots: str) -> None:
    target = resolve_target(level)
    assert target.integers
    assert target.isa.dot8 == dots
    monkeypatch.setattr(x86, "cpu_features", lambda: frozenset({*target.features, "sse2"}))
    monkeypatch.setattr(x86.platform, "machine", lambda: "x86_64")
    assert resolve_target("x86").spec == level
