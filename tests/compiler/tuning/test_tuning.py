"""``tune`` through whole compilations: planted tactics that must lose and win, caches, errors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import burnish
from burnish.artifact import read_manifest
from burnish.backends import registry
from burnish.backends.cpu.rules import RULES
from burnish.backends.cpu.rules.conv import direct_tactics
from burnish.backends.cpu.rules.matmul import gemm_tactics
from burnish.cli.main import main
from burnish.driver import compile_artifact
from burnish.errors import CompileError, InputFileError, UsageError
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import CostTable, Source, Tactic, by_tactics
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from burnish.tuning import conclude, session
from burnish.tuning.choosers import Measured
from burnish.tuning.session import Selection
from tests.support.bundle import Case, model_of

#: Two equal convolutions with padding, and one that stands alone.
NET = Case(
    "(float[1,16,24,24] x) => (float[1,16,24,24] y) "
    "<float[16,16,3,3] w1, float[16,16,3,3] w2, float[16,16,1,1] w3> "
    "{ a = Conv<pads=[1,1,1,1]>(x, w1) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, w2) d = Relu(c)"
    " y = Conv(d, w3) }"
)
REPEATS = 40


def planted(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
    """The direct template: said to be slow, and forty times in a row, said to be fast."""
    direct = next(direct_tactics(ctx, node))

    def again() -> None:
        for _ in range(REPEATS):
            direct.emit()

    yield Tactic("repeated", 1.0, again)
    yield Tactic("once", 1e9, direct.emit)


def plant(monkeypatch: pytest.MonkeyPatch, key: str, source: Source) -> None:
    """Have a composite have the tactics of one source, and no others."""
    rule = replace(RULES[key], emit=by_tactics(source))
    resolve = registry.resolve_target

    def planted_target(spec: str, precision: str = "fp32") -> Any:
        target = resolve(spec, precision)
        backend = replace(target.backend, rules=lambda: {**RULES, key: rule})
        return replace(target, backend=backend)

    monkeypatch.setattr(registry, "resolve_target", planted_target)


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions have the planted tactics."""
    plant(monkeypatch, "burnish::Conv", planted)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(model_of(NET, "net", np.random.default_rng(5)), path)
    return path


def build(model: Path, output: Path, **options: Any) -> CompileReport:
    """Compile in this process: the planted tactics are known here only."""
    chosen = CompileOptions(threads=1, **options)
    return compile_artifact(CompileRequest(str(model), str(output), chosen, name="net"))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.usefixtures("rules")
def test_the_faster_tactic_wins_whatever_the_cost_table_says(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, tmp = tmp_path / "cache", tmp_path / "tmp"
    tmp.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp))
    report = build(model, tmp_path / "a", tune=True, tune_seconds=600, cache_dir=cache, check=True)
    assert report.comparison is not None
    assert report.comparison["passed"]
    tuning = report.tuning
    assert tuning is not None
    assert [(p["nodes"], p["table"], p["chosen"]) for p in tuning["problems"]] == [
        (2, "repeated", "once"),
        (1, "repeated", "once"),
    ]
    for problem in tuning["problems"]:
        # All kernels of a tactic count.
        assert problem["table_us"] > 5 * problem["chosen_us"]
        assert problem["gain_us"] > 0
    assert tuning["tuned_ms"] < tuning["table_ms"]
    assert "faster" in tuning["verdict"]
    assert report.seconds["tune"] > 0
    nodes = [n for n in read_manifest(tmp_path / "a").nodes if n.op == "burnish::Conv"]
    assert {n.tactic for n in nodes} == {"once"}
    assert all(n.why.startswith("measured on this machine: once ") for n in nodes)
    assert not list(tmp.iterdir())

    # Without --tune, the cache decides: the same bytes, whoever builds it.
    again = build(model, tmp_path / "b", cache_dir=cache, error_on_cache_miss=True, check=True)
    assert "tuned: 2 of 2 problems from the timing cache" in again.notes
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = tmp_path / "other"
    other.mkdir()
    (other / "timing.json").write_bytes((cache / "timing.json").read_bytes())
    build(model, tmp_path / "c", cache_dir=other, error_on_cache_miss=True, check=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "c")

    # Without the cache, the cost table decides.
    build(model, tmp_path / "d", check=True)
    plain = [n for n in read_manifest(tmp_path / "d").nodes if n.op == "burnish::Conv"]
    assert {n.tactic for n in plain} == {"repeated"}
    assert all("cost table" in n.why for n in plain)

    # All is known: another tuning has nothing to measure but the two builds.
    kept = build(model, tmp_path / "e", tune=True, cache_dir=cache).tuning
    assert kept is not None
    assert kept["rounds"] == 0
    assert all(p["kept"] for p in kept["problems"])


@pytest.mark.usefixtures("rules")
def test_what_the_cache_lacks_is_an_error_that_lists_it(model: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="2 of 2 problems") as found:
        build(model, tmp_path / "a", cache_dir=tmp_path / "cache", error_on_cache_miss=True)
    message = str(found.value)
    assert "const float32[16,16,3,3]" in message
    assert "repeated, once" in message
    assert f"--tune --cache-dir {tmp_path / 'cache'}" in message
    assert found.value.exit_code == 4
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("rules")
def test_a_damaged_cache_is_said_and_not_used(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "timing.json").write_text("{")
    report = build(model, tmp_path / "a", cache_dir=cache)
    assert any("damaged" in note for note in report.notes)
    assert any("tuned: 0 of 2 problems" in note for note in report.notes)
    with pytest.raises(CompileError, match="damaged"):
        build(model, tmp_path / "b", cache_dir=cache, error_on_cache_miss=True)


@pytest.mark.usefixtures("rules")
def test_the_default_cache_is_the_users(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    report = build(model, tmp_path / "a", tune=True, tune_seconds=0.1)
    assert report.tuning is not None
    path = tmp_path / "home" / "burnish" / "timing.json"
    assert report.tuning["cache"] == str(path)
    assert json.loads(path.read_text())["environments"]
    # It is read only by who tunes: two machines build the same without.
    assert not any("tuned" in note for note in build(model, tmp_path / "b").notes)


@pytest.mark.usefixtures("rules")
def test_a_failing_build_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("burnish.artifact.writer.write_weights", full)
    with pytest.raises(InputFileError, match="No space left"):
        build(model, tmp_path / "a", tune=True, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "cache" / "timing.json").exists()


@pytest.mark.usefixtures("rules")
def test_threads_have_entries_of_their_own(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(model, tmp_path / "a", tune=True, tune_seconds=0.1, cache_dir=cache)
    options = CompileOptions(threads=2, cache_dir=cache, error_on_cache_miss=True)
    with pytest.raises(CompileError, match=r"has entries for: .* threads 1,"):
        compile_artifact(CompileRequest(str(model), str(tmp_path / "b"), options, name="net"))


def test_an_error_lists_the_first_of_many_problems(tmp_path: Path) -> None:
    misses = {f"problem {i}": ("a", "b") for i in range(11)}
    selection = Selection(Measured({}, CostTable(), misses=misses))
    with pytest.raises(CompileError, match="11 of 11 problems") as found:
        conclude(selection, CompileOptions(cache_dir=tmp_path, error_on_cache_miss=True))
    lines = str(found.value).splitlines()
    assert sum("problem" in line and ": a, b" in line for line in lines) == 8
    assert "  and 3 more" in lines


def test_another_machines_kernels_cannot_be_measured(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be measured here") as found:
        burnish.compile_to(model, tmp_path / "a", target="arm", tune=True)
    assert "aarch64" in str(found.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune": True, "tune_seconds": 0}, "must be positive"),
        ({"tune": True, "tune_seconds": float("nan")}, "must be positive"),
        ({"error_on_cache_miss": True}, "no timing cache"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CompileOptions(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tune-time", "10s"], "add --tune"),
        (["--tune", "--tune-time", "soon"], "not a time"),
        (["--tune", "--tune-time", "0"], "must be positive"),
        (["--tune-shapes", "x:1x16x24x24"], "add --tune"),
        (["--tune", "--tune-shapes", "x:1xnx24x24"], "must be numbers"),
        (["--error-on-cache-miss"], "--cache-dir"),
    ],
)
def test_wrong_command_lines(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_what_was_measured(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compile", str(model), "--tune", "--tune-time", "0.5s", "-v", "--no-check"]
    command += ["--threads", "1", "--cache-dir", str(tmp_path / "cache")]
    assert main([*command, "-o", str(tmp_path / "a"), "--json", str(tmp_path / "r.json")]) == 0
    tuning = json.loads((tmp_path / "r.json").read_text())["tuning"]
    assert tuning["budget"] == 0.5
    assert main([*command, "-o", str(tmp_path / "b")]) == 0
    out = capsys.readouterr().out
    assert "tuned in" in out
    assert f"times are in {tmp_path / 'cache' / 'timing.json'}" in out


def test_interrupting_leaves_nothing(model: Path, tmp_path: Path) -> None:
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    command = [sys.executable, "-m", "burnish", "compile", str(model), "--tune"]
    command += ["--cache-dir", str(tmp_path / "cache"), "-o", str(tmp_path / "a")]
    process = subprocess.Popen(
        command, env=os.environ | {"TMPDIR": str(tmp)}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(tmp.glob("burnish-worker-*/burnish-tune-*")):
        assert process.poll() is None, "it ended before anything was measured"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) not in (0, 1)
    assert not list(tmp.iterdir())
    assert not (tmp_path / "a").exists()


def test_the_messages_fit_the_options() -> None:
    assert session.timing_path(CompileOptions()) is None
    assert session.timing_path(CompileOptions(cache_dir="here")) == Path("here/timing.json")


DYNAMIC = Case(
    "(float[batch,8] x) => (float[batch,32] y) <float[8,32] w, float[32] b> "
    "{ m = MatMul(x, w) y = Add(m, b) }"
)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrix products have two names for the same kernel."""

    def twins(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
        gemm = next(iter(gemm_tactics(ctx, node)))
        yield Tactic("one", 1.0, gemm.emit)
        yield Tactic("other", 2.0, gemm.emit)

    plant(monkeypatch, "burnish::MatMul", twins)


@pytest.mark.usefixtures("products")
def test_times_with_other_sizes_are_other_times(tmp_path: Path) -> None:
    path, cache = tmp_path / "dynamic.onnx", tmp_path / "cache"
    onnx.save(model_of(DYNAMIC, "d", np.random.default_rng(5)), path)
    options: dict[str, Any] = {"tune": True, "tune_seconds": 60, "cache_dir": cache}

    def tuning(**more: Any) -> dict[str, Any]:
        found = build(path, tmp_path / f"a{len(list(tmp_path.iterdir()))}", **options, **more)
        assert found.tuning is not None
        return found.tuning

    first = tuning()
    assert first["sizes"] == "d/x:1x8"
    assert first["rounds"] == 2
    assert tuning()["rounds"] == 0
    second = tuning(tune_shapes={"d/x": (96, 8)})
    assert second["sizes"] == "d/x:96x8"
    assert second["rounds"] == 2
    text = (cache / "timing.json").read_text()
    assert '"sizes": "d/x:96x8"' in text
    assert "d/x:1x8" not in text


@pytest.mark.parametrize("shapes", [{"nothing": (1, 8)}, {"d/x": (3, 9)}, {"d/x": (3,)}])
def test_shapes_to_measure_with_have_to_fit(shapes: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    onnx.save(model_of(DYNAMIC, "d", np.random.default_rng(5)), path)
    with pytest.raises(UsageError):
        build(path, tmp_path / "a", tune=True, cache_dir=tmp_path / "c", tune_shapes=shapes)
