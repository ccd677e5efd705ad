"""The command line: results on stdout, progress on a terminal only, exit codes, start-up time."""

from __future__ import annotations

import importlib
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import onnx
import pytest

from burnish.cli import common
from burnish.cli.main import COMMANDS, main
from burnish.cli.progress import show_progress
from tests.support.bundle import Case, model_of
from tests.support.cli import Cli

MLP = Case(
    "(float[batch,8] x) => (float[batch,4] y) <float[8,16] w1, float[16] b1, float[16,4] w2> "
    "{ h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) y = MatMul(r, w2) }"
)
UNSUPPORTED = Case(
    "(float[n,8] x) => (float[n,8] y, float[n,8] z) "
    "{ r = Relu(x) y = Bernoulli(r) z = RandomNormalLike(x) }"
)
X = np.random.default_rng(2).standard_normal((3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    for name, case in (("mlp", MLP), ("unsupported", UNSUPPORTED)):
        onnx.save(model_of(case, "m", np.random.default_rng(1)), path / f"{name}.onnx")
    np.savez(path / "in.npz", **{"m/x": X})
    return path


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Path:
    path = folder / "mlp.burnish"
    assert main(["compile", str(folder / "mlp.onnx"), "-o", str(path), "--quiet"]) == 0
    return path


@pytest.fixture
def inside(folder: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    return Cli(capfd)


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help(command: str, cli: Cli) -> None:
    text = cli(*([command] if command else []), "--help")
    assert text.startswith("Usage: burnish")
    if command:
        found = importlib.import_module(COMMANDS[command][0]).command
        for option in found.params:
            if isinstance(option, click.Option):
                assert option.help, f"{command} {option.name} is not explained"
                assert option.opts[-1] in text


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, burnish.cli.main as m; m.main(['--help']); "
        "print([n for n in ('numpy', 'onnx', 'tvm', 'tvm_ffi', 'rich', 'onnxruntime') "
        "if n in sys.modules], file=sys.stderr)"
    )
    times = []
    for _ in range(3):
        start = processor_time()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(processor_time() - start)
        assert done.stderr.strip() == "[]", done.stderr
    assert min(times) < 0.3


def processor_time() -> float:
    """Seconds that this process and its children have computed: other processes do not count."""
    return sum(os.times()[:4])


# --- compile -----------------------------------------------------------------------------------


def test_compile_reports(inside: Path, cli: Cli) -> None:
    out = cli("compile", "mlp.onnx", "-o", "a.burnish", "-v")
    assert "equal to onnxruntime within tolerance: 1 output" in out
    assert "fuse-epilogues" in out
    assert "peak memory" in out
    assert "\x1b" not in out, "colours in a pipe"
    assert "2 kernels" in out


def test_compile_by_model_option_as_json(inside: Path, cli: Cli) -> None:
    data = cli.json("compile", "-m", "mlp.onnx", "-o", "b.burnish", "--verify-passes", "-O2")
    assert data["nodes"] == {"burnish::MatMul": 2}
    assert data["comparison"]["passed"]  # type: ignore[index]


def test_compile_quietly_without_check(inside: Path, cli: Cli) -> None:
    assert cli("compile", "mlp.onnx", "-o", "c.burnish", "-q", "--no-check", "--overwrite") == ""
    assert cli.json("inspect", "c.burnish")["verification"] is None
    assert "exists" in cli("compile", "mlp.onnx", "-o", "c.burnish", code=2)
    assert "not compared" in cli(
        "compile", "mlp.onnx", "-o", "c.burnish", "--overwrite", "--no-check"
    )


def test_compile_writes_every_stage(inside: Path, cli: Cli) -> None:
    cli("compile", "mlp.onnx", "-o", "d.burnish", "--dump-ir", "stages", "--no-check")
    files = sorted(path.name for path in (inside / "stages").iterdir())
    assert files[0] == "00-imported.onnx"
    assert any(name.endswith("-fuse-epilogues.txt") for name in files)
    for path in (inside / "stages").glob("*.onnx"):
        assert "equal" in cli("compare", path, "mlp.onnx")


PRECISIONS = {
    ("--best",): "precision auto measures on samples of real inputs",
    ("--calibration-method", "entropy"): "an option of quantization is of no use with",
    ("--calibration-data", "in.npz"): "calibration data is of no use with precision fp32",
    ("--int8", "--max-drop", "0.1"): "a budget is of no use with precision int8",
    ("--int8", "--bias-correction"): "--bias-correction needs calibration data",
    ("--int8", "--matmul-all"): "--matmul-all needs calibration data",
    ("--int8", "--op-types-to-exclude", "Matmul"): "there is no operator 'Matmul'",
    ("--int8", "-O1"): "precision int8 needs optimization level 2 or 3",
    ("--int8", "--calibration-samples", "3"): "there are no calibration samples",
    ("--best", "--calibration-data", "in.npz", "--metric", "f1"): "unknown metric 'f1'",
    ("--best", "--calibration-data", "in.npz", "--max-evals", "1"): "leaves nothing to choose",
    ("--best", "--calibration-data", "in.npz", "--max-drop", "-1"): "--max-drop takes a number",
    ("--strict",): "--strict is of no use with precision fp32",
    ("--int8", "--fp16"): "--fp16 and --int8 contradict each other",
    ("--int8", "--precision", "fp32"): "contradict each other",
    ("--precision", "fp12"): "unknown precision 'fp12'",
}


@pytest.mark.parametrize("options", PRECISIONS)
def test_precision_that_is_not_there(options: tuple[str, ...], inside: Path, cli: Cli) -> None:
    out = cli("compile", "mlp.onnx", "-o", "no.burnish", *options, code=2)
    assert PRECISIONS[options] in out
    assert not (inside / "no.burnish").exists()


def test_fp16_is_compiled_and_written(inside: Path, cli: Cli) -> None:
    out = cli("compile", "mlp.onnx", "-o", "half.burnish", "--fp16")
    assert "in fp16 (computed in fp32)" in out
    assert "equal to onnxruntime within tolerance" in out
    data = cli.json("inspect", "half.burnish")
    assert {"fp16"} == {n["storage"] for n in data["nodes"] if "MatMul" in n["op"]}
    assert "what reads its result takes fp32" in cli("inspect", "half.burnish")
    assert "equal" in cli("compare", "half.burnish", "mlp.onnx", "--inputs", "in.npz")
    cli("optimize", "mlp.onnx", "half.onnx", "--precision", "fp16", "--verify-passes")
    weights = onnx.load(inside / "half.onnx").graph.initializer
    assert onnx.TensorProto.FLOAT16 in {tensor.data_type for tensor in weights}
    assert "equal" in cli("compare", "half.onnx", "mlp.onnx", "--inputs", "in.npz")
    assert "mixed-precision" in cli("optimize", "--list-passes", "--precision", "fp16")
    out = cli("optimize", "mlp.onnx", "no.onnx", "--precision", "int8", code=2)
    assert "burnish quantize IN OUT writes models of 8 or 4 bits" in out


# --- compare, bench, run -------------------------------------------------------------------------


def test_compare_artifact(inside: Path, cli: Cli) -> None:
    assert "equal" in cli("compare", "mlp.burnish", "mlp.onnx", "--inputs", "in.npz")
    data = cli.json("compare", "mlp.burnish", "-m", "mlp.onnx", "--input-shapes", "m/x:7x8")
    assert data["passed"]
    assert data["cases"] == [{"m/x": [7, 8]}]


def test_compare_compiles_a_model(inside: Path, cli: Cli) -> None:
    assert cli.json("compare", "mlp.onnx")["cases"] == [{"m/x": [1, 8]}]


def test_compare_different_models(inside: Path, cli: Cli) -> None:
    other = model_of(MLP, "m", np.random.default_rng(9))
    onnx.save(other, inside / "other.onnx")
    assert "DIFFERS" in cli("compare", "mlp.burnish", "other.onnx", code=10)


def test_compare_by_a_tolerance(inside: Path, cli: Cli) -> None:
    cli("compare", "mlp.burnish", "mlp.onnx", "--atol", "1e-3", "--rtol", "1e-3")
    assert "--atol is not a number" in cli("compare", "mlp.onnx", "mlp.onnx", "--atol", "x", code=2)


WRONG = {
    "artifact alone": (("compare", "mlp.burnish"), "the model it came from"),
    "two references": (("compare", "mlp.burnish", "mlp.onnx", "-m", "mlp.onnx"), "two models"),
    "nothing to compare": (("compare",), "missing argument ARTIFACT|MODEL"),
    "unknown peer": (("bench", "mlp.onnx", "--against", "abacus"), "peers are onnxruntime"),
    "peer without model": (
        ("bench", "mlp.burnish", "--against", "onnxruntime"),
        "needs the ONNX model",
    ),
    "two models to time": (("bench", "mlp.onnx", "mlp.onnx"), "two models"),
    "no time": (("bench", "mlp.onnx", "--duration", "0"), "--duration"),
    "no streams": (("bench", "mlp.onnx", "--streams", "0"), "--streams"),
    "batch of one call": (("bench", "mlp.onnx", "--batch", "2"), "--batch goes with --streams"),
    "calls of streams": (
        ("bench", "mlp.onnx", "--streams", "1", "--iterations", "3"),
        "use --duration",
    ),
    "no inputs": (("run", "mlp.burnish"), "--inputs"),
    "damaged inputs": (("run", "mlp.burnish", "--inputs", "mlp.onnx"), "not a readable .npz"),
    "not a shape": (("compare", "mlp.onnx", "--input-shapes", "m/x:nx8"), "must be numbers"),
    "results in no folder": (("targets", "--json", "no/such/file"), "cannot write the results"),
    "folder": (("inspect", "."), "a folder that is no artifact"),
    "no such file": (("inspect", "no.onnx"), "no such file"),
    "nothing to optimize": (("optimize",), "missing argument IN"),
    "nowhere to write": (("optimize", "mlp.onnx"), "missing argument OUT"),
    "unknown rule": (("inspect", "mlp.onnx", "--explain", "frob"), "the rules are absorb-act"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use(name: str, inside: Path, cli: Cli) -> None:
    args, says = WRONG[name]
    before = sorted(inside.rglob("*"))
    assert says in cli(*args, code=2)
    assert sorted(inside.rglob("*")) == before


def test_bench(inside: Path, cli: Cli) -> None:
    common = ("--iterations", "5", "--threads", "1", "--percentile", "50")
    out = cli("bench", "mlp.burnish", "mlp.onnx", "--against", "onnxruntime", *common)
    assert "onnxruntime" in out
    assert "p50" in out
    data = cli.json("bench", "mlp.burnish", "--input-shapes", "m/x:4x8", *common)
    assert len(data["timings"]) == 1  # type: ignore[arg-type]


def test_bench_streams(inside: Path, cli: Cli) -> None:
    common = ("--streams", "2", "--duration", "0.2", "--batch", "5")
    out = cli("bench", "mlp.burnish", "mlp.onnx", "--against", "onnxruntime", *common)
    assert "items/s" in out
    assert "batch 5" in out
    data = cli.json("bench", "mlp.burnish", "--threads", "64", *common)
    assert data["oversubscribed"]
    assert data["shapes"] == {"m/x": [5, 8]}
    assert main(["bench", "mlp.burnish", "--threads", "64", *common]) == 0
    assert "warning: 2 stream(s) of 64 thread(s)" in cli.capfd.readouterr().err


def test_run(inside: Path, cli: Cli) -> None:
    assert "m/y: float32[3, 4]" in cli("run", "mlp.burnish", "--inputs", "in.npz")
    assert "1 output: out.npz" in cli(
        "run", "-m", "mlp.burnish", "--inputs", "in.npz", "--outputs", "out.npz", "--threads", "1"
    )
    import onnxruntime

    (expected,) = onnxruntime.InferenceSession("mlp.onnx").run(None, {"m/x": X})
    with np.load("out.npz") as found:
        np.testing.assert_allclose(found["m/y"], expected, rtol=1e-4, atol=1e-5)
    assert not list(inside.glob("*.partial"))


def test_outputs_may_have_any_name(tmp_path: Path) -> None:
    from burnish.cli.common import load_npz, save_npz

    arrays = {name: np.arange(3.0) + i for i, name in enumerate(("file", "a/b", "allow_pickle"))}
    save_npz(str(tmp_path / "o.npz"), arrays)
    found = load_npz(str(tmp_path / "o.npz"))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


# --- inspect, optimize, targets, doctor --------------------------------------------------------


def test_inspect_artifact(inside: Path, cli: Cli) -> None:
    out = cli("inspect", "mlp.burnish")
    assert "input m/x: float32[m_batch,8]" in out
    assert "verified against onnxruntime" in out
    assert "burnish::MatMul" in out
    assert "m/MatMul0" in out
    assert "gemm" in out


def test_inspect_model(inside: Path, cli: Cli) -> None:
    assert "input m/x: float32[m_batch,8]" in cli("inspect", "mlp.onnx")
    data = cli.json("inspect", "mlp.onnx", "--optimized", "--input-shapes", "m/x:5x8")
    assert data["operators"] == {"burnish::MatMul": 2}
    assert data["inputs"] == [{"name": "m/x", "type": "float32[5,8]"}]
    assert "m/r = Relu (m/a)" in cli("inspect", "mlp.onnx", "--text")


def test_support(inside: Path, cli: Cli) -> None:
    assert "every node compiles for x86" in cli("inspect", "mlp.onnx", "--support")
    start = processor_time()
    out = cli("inspect", "unsupported.onnx", "--support", code=3)
    assert processor_time() - start < 5
    assert "2 nodes cannot be compiled for x86" in out
    assert "Bernoulli" in out
    assert "RandomNormalLike" in out
    data = cli.json("inspect", "unsupported.onnx", "--support", "--precision", "fp16", code=3)
    assert data["precision"] == "fp16"
    operators = {row["operator"] for row in data["unsupported"]}
    # ONNX composes Bernoulli of the other.
    assert operators == {"RandomNormalLike", "RandomUniformLike"}
    assert "int8" in cli("inspect", "mlp.onnx", "--support", "--precision", "int8")
    assert "vax" in cli("inspect", "mlp.onnx", "--support", "--target", "vax", code=2)
    out = cli("compile", "unsupported.onnx", "-o", "u.burnish", code=3)
    assert "Bernoulli" in out
    assert "RandomNormalLike" in out


def test_explain(inside: Path, cli: Cli) -> None:
    out = cli("inspect", "mlp.onnx", "--explain", "absorb-activation")
    assert "absorb-activation had a part in 1 nodes" in out
    data = cli.json("inspect", "mlp.onnx", "--explain", "fuse-layer-norm")
    assert data["applied"] == []
    misses = cli.json("inspect", "mlp.onnx", "--explain", "fuse-gelu-erf")
    assert misses["rule"] == "fuse-gelu-erf"


def test_optimize(inside: Path, cli: Cli) -> None:
    out = cli("optimize", "mlp.onnx", "fast.onnx", "-O3", "--verify-passes", "--verify-ir")
    assert "4 nodes -> 2 nodes" in out
    assert "equal" in cli("compare", "fast.onnx", "mlp.onnx")
    assert "exists" in cli("optimize", "mlp.onnx", "fast.onnx", code=2)
    data = cli.json("optimize", "mlp.onnx", "fast.onnx", "--overwrite", "--only-pass", "dead-code")
    assert data["nodes_after"] == 4


def test_passes_are_listed(cli: Cli) -> None:
    assert "fuse-attention" in cli("optimize", "--list-passes", "-O", "2")
    assert "fuse-attention" not in cli("optimize", "--list-passes", "-O0")


def test_targets_and_doctor(cli: Cli) -> None:
    targets = {row["target"]: row for row in cli.json("targets")["targets"]}  # type: ignore[attr-defined]
    assert targets["x86"]["builds"]
    assert targets["x86"]["precisions"] == ["fp32", "fp16", "bf16", "int8", "auto"]
    assert not targets["cuda"]["builds"]
    assert "x86-64-v3" in cli("targets")
    assert "ok   compile worker" in cli("doctor")


# --- terminals --------------------------------------------------------------------------------


def on_terminal(folder: Path, *args: str, **environment: str) -> tuple[int, str]:
    """Run a command whose stderr is a terminal; returns the exit code and what that shows."""
    controller, terminal = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "burnish", *args],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=env | {"TERM": "xterm", "COLUMNS": "100"} | environment,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            chunk = os.read(controller, 1 << 16)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    os.close(controller)
    return process.wait(), shown.decode(errors="replace")


COMPILE = ("compile", "mlp.onnx", "-o", "t.burnish", "--no-check", "--overwrite")


def test_progress_on_a_terminal(inside: Path) -> None:
    code, shown = on_terminal(inside, *COMPILE)
    assert code == 0
    assert "ETA" in shown
    assert "%" in shown


QUIET: dict[str, tuple[bool, dict[str, str], bool]] = {
    "a terminal": (True, {"TERM": "xterm"}, True),
    "a pipe": (False, {"TERM": "xterm"}, False),
    "continuous integration": (True, {"TERM": "xterm", "CI": "true"}, False),
    "a terminal without a cursor": (True, {"TERM": "dumb"}, False),
}


@pytest.mark.parametrize("name", QUIET)
def test_where_progress_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, environment, drawn = QUIET[name]
    monkeypatch.delenv("CI", raising=False)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert common.on_terminal() == drawn


def test_colours(inside: Path) -> None:
    code, shown = on_terminal(inside, "compile", "no.onnx")
    assert code == 2
    assert "\x1b[" in shown
    code, shown = on_terminal(inside, "compile", "no.onnx", NO_COLOR="1")
    assert code == 2
    assert "\x1b[" not in shown
    assert "no such file" in shown


def test_progress_takes_any_phase(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("burnish.cli.progress.on_terminal", lambda: True)
    with show_progress() as progress:
        progress("import", 0, 1)
        progress("generate code", 3, 0)
        progress("something new", 1, 2)
    with show_progress(quiet=True) as progress:
        progress("import", 0, 1)
    assert capfd.readouterr().out == ""


def test_rewriting_imports_no_compiler(inside: Path) -> None:
    code = (
        "import sys; from burnish.report.inspect import describe_model; "
        "describe_model('mlp.onnx', (), True); print('tvm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_a_killed_command(
    number: signal.Signals, inside: Path, tmp_path: Path
) -> None:
    before = sorted(inside.iterdir())
    process = subprocess.Popen(
        [sys.executable, "-m", "burnish", "compare", "mlp.onnx"],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.rglob("*.tmp")), "the worker has started to write"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []
    assert sorted(inside.iterdir()) == before
