"""Models with oneDNN's operations: results, threads, the manifest, and what may be missing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import burnish
from burnish.artifact import read_manifest
from burnish.backends.x86 import X86
from burnish.cli.main import main
from burnish.driver import compile_artifact
from burnish.errors import TargetUnavailableError, UsageError
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from burnish.runtime import onednn
from tests.support.cpu_kernels import Array

MISSING = X86.libraries["onednn"]()
needs_onednn = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

#: (operator, inputs, output, attributes); weights are named by their shapes: ``w_32_16_3_3``.
NODES: list[tuple[str, list[str], str, dict[str, Any]]] = [
    ("Conv", ["x", "w_32_16_3_3", "w_32"], "c0", {"pads": [1, 1, 1, 1]}),
    ("Relu", ["c0"], "c1", {}),
    ("Conv", ["c1", "w_32_32_1_1"], "c2", {}),
    ("Add", ["c2", "c1"], "c3", {}),
    ("Conv", ["c3", "w_32_1_5_5"], "c4", {"group": 32, "pads": [2, 2, 2, 2], "strides": [2, 2]}),
    ("Conv", ["c4", "w_24_16_3_3"], "c5", {"group": 2, "dilations": [2, 2], "strides": [1, 2]}),
    ("LeakyRelu", ["c5"], "image", {"alpha": 0.1}),
    ("MatMul", ["s", "w_48_300"], "m0", {}),
    ("Add", ["m0", "w_300"], "m1", {}),
    ("Tanh", ["m1"], "m2", {}),
    ("MatMul", ["m2", "w_300_70"], "m3", {}),
    ("Transpose", ["s"], "t0", {"perm": [0, 2, 1]}),
    ("MatMul", ["s", "t0"], "scores", {}),
    ("MatMul", ["m3", "w_70_48"], "product", {}),
    ("Conv", ["t0", "w_40_48_5", "w_40"], "signal", {"pads": [2, 2]}),
]


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(4)
    names = sorted({i for _, inputs, _, _ in NODES for i in inputs if i.startswith("w_")})
    weights = []
    for name in names:
        shape = [int(size) for size in name.split("_")[1:]]
        fan = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        weights.append(
            numpy_helper.from_array(rng.standard_normal(shape, "f4") / np.float32(fan**0.5), name)
        )

    def value(name: str, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], **attrs) for op, inputs, output, attrs in NODES],
        "several",
        [value("x", ["n", 16, 30, 34]), value("s", ["b", 64, 48])],
        [value(name, None) for name in ("image", "product", "scores", "signal")],
        weights,
    )
    opset = helper.make_opsetid("", 17)
    return helper.make_model(graph, ir_version=8, opset_imports=[opset])


def compile_model(path: Path, **options: Any) -> CompileReport:
    request = CompileRequest(
        model().SerializeToString(), str(path), CompileOptions(**options), overwrite=True
    )
    return compile_artifact(request)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if MISSING is not None:
        pytest.skip(str(MISSING))
    path = tmp_path_factory.mktemp("onednn") / "model.burnish"
    compile_model(path, library="onednn")
    return path


@pytest.fixture(scope="module")
def reference() -> Callable[[dict[str, Array]], list[Array]]:
    session = onnxruntime.InferenceSession(model().SerializeToString())
    return lambda feeds: session.run(None, feeds)


def feeds(n: int = 1, b: int = 1, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "x": rng.standard_normal((n, 16, 30, 34), "f4"),
        "s": rng.standard_normal((b, 64, 48), "f4"),
    }


def check(found: Sequence[Array], want: Sequence[Array]) -> None:
    for one, other in zip(found, want, strict=True):
        np.testing.assert_allclose(one, other, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("n", "b"), [(1, 1), (2, 3), (5, 1), (1, 4)])
def test_results_of_any_size_on_several_threads(
    artifact: Path, reference: Any, threads: int, n: int, b: int
) -> None:
    given = feeds(n, b)
    with burnish.load(artifact, threads=threads) as loaded:
        for _ in range(4):
            check(loaded.run(None, given), reference(given))


def test_the_manifest_says_which_nodes_and_why(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert manifest.libraries == ("onednn",)
    taken = [n for n in manifest.nodes if n.tactic.startswith("onednn ")]
    assert {n.op for n in taken} == {"burnish::Conv", "burnish::MatMul", "burnish::BatchMatMul"}
    assert len(taken) == sum(op in ("Conv", "MatMul") for op, *_ in NODES)
    for node in taken:
        assert node.why == "the only tactic with --library onednn"
        assert node.kernel.startswith("onednn_")
        assert ":" in node.tactic
        assert "ref" not in node.tactic
        assert node.flops != "0"


def test_inspect_shows_the_implementation(
    artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(artifact), "--json", "-"]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert any("onednn" in node["tactic"] for node in nodes)


@needs_onednn
def test_two_compilations_give_the_same_bytes(artifact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.burnish"
    compile_model(again, library="onednn")
    for name in ("model.so", "weights.safetensors", "manifest.json"):
        first, second = ((p / name).read_bytes() for p in (artifact, again))
        assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest(), name


def test_a_new_process_loads_it(artifact: Path, reference: Any, tmp_path: Path) -> None:
    given = feeds(2, 2)
    np.savez(tmp_path / "in.npz", **given)
    code = (
        "import sys, numpy as np, burnish\n"
        "given = dict(np.load(sys.argv[2]))\n"
        "np.savez(sys.argv[3], *burnish.load(sys.argv[1], threads=2).run(None, given))\n"
        "assert 'tvm' not in sys.modules\n"
    )
    arguments = [str(artifact), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)
    out = np.load(tmp_path / "out.npz")
    check([out[name] for name in out.files], reference(given))


def test_calls_at_once_and_two_sessions(artifact: Path, reference: Any) -> None:
    cases = [feeds(1 + i % 3, 1 + i % 2, i) for i in range(6)]
    wanted = [reference(case) for case in cases]
    models = [burnish.load(artifact, threads=t) for t in (1, 2)]

    def work(index: int) -> None:
        for turn in range(12):
            case = (index + turn) % len(cases)
            check(models[index % 2].run(None, cases[case]), wanted[case])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def test_profile_names_the_operations(artifact: Path) -> None:
    with burnish.load(artifact, threads=1) as loaded:
        calls = loaded.profile(feeds())
    taken = [n.kernel for n in read_manifest(artifact).nodes if n.tactic.startswith("onednn ")]
    assert [call.name for call in calls if call.name.startswith("onednn_")] == taken


def test_none_takes_no_library(tmp_path: Path) -> None:
    compile_model(tmp_path / "m.burnish", library="none")
    manifest = read_manifest(tmp_path / "m.burnish")
    assert manifest.libraries == ()
    assert not any("onednn" in node.tactic for node in manifest.nodes)


@needs_onednn
def test_auto_knows_the_library(tmp_path: Path) -> None:
    compile_model(tmp_path / "m.burnish")
    manifest = read_manifest(tmp_path / "m.burnish")
    assert any("onednn" in node.why for node in manifest.nodes)


@needs_onednn
def test_reference_implementations_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from burnish.backends.x86.onednn import offers

    found = offers.implementation

    def slow(operation: Any, sizes: Sequence[int], isa: str) -> str:
        return "ref:any" if operation.kind == "conv" else found(operation, sizes, isa)

    monkeypatch.setattr(offers, "implementation", slow)
    report = compile_model(tmp_path / "m.burnish", library="onednn", check=True)
    convs = sum(op == "Conv" for op, *_ in NODES)
    (note,) = [n for n in report.notes if n.startswith("oneDNN: ")]
    assert note.endswith(f"not {convs} because: only the implementation ref:any")
    nodes = read_manifest(tmp_path / "m.burnish").nodes
    assert not any("onednn" in n.tactic for n in nodes if n.op == "burnish::Conv")
    assert any("onednn" in n.tactic for n in nodes if n.op == "burnish::MatMul")


@needs_onednn
def test_float16_is_left_to_generated_kernels(tmp_path: Path) -> None:
    report = compile_model(tmp_path / "m.burnish", library="onednn", precision="fp16")
    assert any("no operation on float16" in note for note in report.notes)


@needs_onednn
def test_an_older_cpu_is_asked_about_in_a_new_process(tmp_path: Path) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    options = {"target": "x86-64-v3", "library": "onednn", "check": True}
    burnish.compile_to(tmp_path / "m.onnx", tmp_path / "m.burnish", **options)
    taken = [n.tactic for n in read_manifest(tmp_path / "m.burnish").nodes if n.tactic]
    assert all("onednn" in tactic for tactic in taken)
    assert any("avx2" in tactic for tactic in taken)
    assert not any("avx512" in tactic for tactic in taken)


# --- without oneDNN ----------------------------------------------------------------------------


@pytest.fixture
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is not installed."""
    monkeypatch.setattr(onednn, "_dnnl", lambda: None)
    onednn.load.cache_clear()


@pytest.mark.usefixtures("without_onednn")
def test_asking_for_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    arguments = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "m.burnish")]
    assert main([*arguments, "--library", "onednn"]) == 5
    said = capsys.readouterr().err
    assert "oneDNN is not installed" in said
    assert "pip install onednn-cpu-gomp==2023.2.0" in said
    assert not (tmp_path / "m.burnish").exists()


@pytest.mark.usefixtures("without_onednn")
def test_auto_goes_on_and_says_so(tmp_path: Path) -> None:
    report = compile_model(tmp_path / "m.burnish", check=True)
    (note,) = [n for n in report.notes if "onednn" in n]
    assert note.startswith("compiled without onednn: oneDNN is not installed")
    assert not any("onednn" in n.why for n in read_manifest(tmp_path / "m.burnish").nodes)


def test_loading_what_needs_it(artifact: Path, without_onednn: None) -> None:
    with pytest.raises(TargetUnavailableError, match="oneDNN is not installed") as error:
        burnish.load(artifact)
    assert error.value.exit_code == 5
    assert "--library none" in str(error.value.hint)


@pytest.mark.usefixtures("without_onednn")
def test_doctor_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    (index,) = [i for i, line in enumerate(lines) if line.startswith("note oneDNN: ")]
    assert "fix: pip install onednn-cpu-gomp==2023.2.0" in lines[index + 1]


@needs_onednn
def test_doctor_says_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor"])
    assert "libdnnl.so.3" in capsys.readouterr().out


def test_a_build_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "LIBRARY_NAME", "libburnish_nothing.so")
    with pytest.raises(TargetUnavailableError, match="was built without oneDNN") as error:
        onednn.libraries()
    assert "onednn-devel-cpu-gomp==2023.2.0" in str(error.value.hint)


def test_a_library_of_a_later_version() -> None:
    with pytest.raises(TargetUnavailableError, match="the library later"):
        onednn.load_for(("later",))


def test_names_that_are_no_library() -> None:
    with pytest.raises(UsageError, match="unknown library 'mkl'"):
        CompileOptions(library="mkl")


def test_targets_without_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no operations of onednn") as error:
        compile_model(tmp_path / "m.burnish", target="arm", library="onednn")
    assert error.value.hint == "use --library auto or none"
