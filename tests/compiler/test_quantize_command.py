"""``burnish quantize``: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from burnish.cli.main import main
from burnish.export import save
from tests.support.golden import parse
from tests.support.quantization import SMALL_NET

RNG = np.random.default_rng(8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small network, with twelve samples beside it."""
    save(parse(SMALL_NET, seed=2), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((12, 3, 12, 12), dtype=np.float32))
    return tmp_path / "net.onnx"


@dataclass
class Done:
    """What a command gave."""

    exit_code: int
    output: str
    errors: str


class Command:
    """Runs the command."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, model: Path, *arguments: str) -> Done:
        output = model.with_name("int8.onnx")
        code = main(["quantize", str(model), str(output), *arguments])
        return Done(code, *self.capsys.readouterr())


@pytest.fixture
def quantize(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command."""
    return Command(capsys)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "mse"])
def test_static_quantization_is_plain_onnx_that_onnxruntime_runs(
    quantize: Command, model: Path, method: str
) -> None:
    data = str(model.with_name("data.npz"))
    done = quantize(
        model, "--calibration-data", data, "--calibration-method", method, "--min-cosine", "0.99"
    )
    assert done.exit_code == 0, done.errors
    assert "12 calibration samples" in done.output
    assert "int8: 2 products quantized, 0 kept in fp32" in done.output
    path = model.with_name("int8.onnx")
    onnx.checker.check_model(path, full_check=True)
    x = np.load(data)["x"][:1]
    (found,) = ort.InferenceSession(path).run(None, {"x": x})
    (wanted,) = ort.InferenceSession(model).run(None, {"x": x})
    assert 0 < np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
    domains = {n.domain for n in onnx.load(path).graph.node}
    assert domains == {""}


def test_without_data_products_are_quantized_by_the_range_of_each_call(
    quantize: Command, model: Path
) -> None:
    done = quantize(model, "--json", "-")
    assert done.exit_code == 0, done.errors
    report = json.loads(done.output)
    assert report["operators"]["MatMulInteger"] == 1
    assert report["samples"] == 0
    assert list(report["kept"].values()) == ["Conv needs calibration data"]
    assert report["size_after"] == model.with_name("int8.onnx").stat().st_size
    assert report["cosine"]["y"] > 0.99


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--calibration-data", "absent.npz"], 2, "no such calibration data"),
        (["--calibration-data", "DATA", "--calibration-samples", "13"], 2, "13 were asked for"),
        (["--calibration-data", "DATA", "--nodes-to-exclude", "zz"], 2, "no node is called 'zz'"),
        (["--calibration-data", "DATA", "--percentile", "20"], 2, "must lie in (50, 100]"),
        (["--calibration-data", "DATA", "--min-cosine", "1"], 10, "cosine similarity of 0."),
        (["--op-types-to-exclude", "MatMul", "--op-types-to-exclude", "Conv"], 2, "nothing was"),
        (["--calibration-data", "BAD"], 2, "holds NaN"),
        (["--min-cosine", "7"], 2, "a cosine lies in [-1, 1]"),
        (["--bias-correction"], 2, "--bias-correction needs calibration data"),
        (["--equalize"], 2, "give samples with --calibration-data"),
        (["--calibration-samples", "4"], 2, "no calibration samples to take a number of"),
        (["--calibration-method", "mse"], 2, "--calibration-method needs calibration data"),
        (["--activation-type", "int8"], 2, "--activation-type needs calibration data"),
        (["--symmetric"], 2, "--symmetric needs calibration data"),
        (["--matmul-all"], 2, "--matmul-all needs calibration data"),
        (["--quantize-residuals"], 2, "--quantize-residuals needs calibration data"),
        (["--percentile", "99.9"], 2, "no use with --calibration-method minmax"),
        (["--op-types-to-exclude", "Cnv"], 2, "there is no operator 'Cnv'"),
        (["--weights-only", "int4", "--activation-type", "int8"], 2, "about 8-bit activations"),
        (["--weights-only", "int4", "--calibration-method", "mse"], 2, "about 8-bit activations"),
        (["--weights-only", "int4", "--per-tensor"], 2, "each block of weights has its own scale"),
        (
            ["--calibration-data", "DATA", "--smooth-quant", "1.5"],
            2,
            "a share in [0, 1] or auto, not 1.5",
        ),
        (["--calibration-data", "DATA", "--smooth-quant", "much"], 2, "neither a number nor auto"),
        (["--gptq"], 2, "--gptq needs calibration data"),
        (["--weights-only", "int4", "--block-size", "48"], 2, "48 is no block size"),
        (["--weights-only", "int4", "--smooth-quant", "0.5"], 2, "--weights-only leaves them"),
        (["--weights-only", "int2"], 2, "'int2' is not one of 'int8', 'int4'"),
        (["--weights-only", "int4", "--format", "gguf"], 2, "'gguf' is not one of"),
        (["--block-size", "32"], 2, "--block-size is of use with --weights-only only"),
        (["--format", "matmulnbits"], 2, "--format is of use with --weights-only only"),
        (["--weights-only", "int4"], 2, "fewer than 32 rows"),
    ],
)
def test_refusals_leave_nothing_behind(
    quantize: Command, model: Path, arguments: list[str], code: int, message: str
) -> None:
    bad = np.full((1, 3, 12, 12), np.nan, np.float32)
    np.savez(model.with_name("bad.npz"), x=bad)
    places = {"DATA": model.with_name("data.npz"), "BAD": model.with_name("bad.npz")}
    done = quantize(model, *[str(places.get(a, a)) for a in arguments])
    assert done.exit_code == code, done.errors
    assert message in done.errors
    assert not model.with_name("int8.onnx").exists()


def test_an_output_is_not_replaced_unless_asked(quantize: Command, model: Path) -> None:
    assert quantize(model).exit_code == 0
    again = quantize(model)
    assert again.exit_code == 2
    assert "--overwrite" in again.errors
    assert quantize(model, "--overwrite").exit_code == 0


def test_the_result_compiles(quantize: Command, model: Path) -> None:
    import burnish

    data = str(model.with_name("data.npz"))
    assert quantize(model, "--calibration-data", data).exit_code == 0
    compiled = burnish.compile(model.with_name("int8.onnx"), check=True)
    (found,) = compiled.run(None, {"x": np.load(data)["x"][:1]})
    assert found.shape == (1, 6)


SEPARABLE = """g (float[1,3,12,12] x) => (float[1,12,64] y)
<float[64,3,1,1] w, float[64] b, float[64,1,3,3] d, float[64] s, float[64,64] v> {
    c = Conv(x, w, b)
    r = Relu(c)
    k = Conv<group=64, pads=[1,1,1,1]>(r, d)
    m = ReduceMax<keepdims=0>(k, axes)
    t = Transpose<perm=[0,2,1]>(m)
    n = RMSNormalization(t, s)
    y = MatMul(n, v)
}"""


@pytest.fixture
def separable(tmp_path: Path) -> Path:
    """A network with a depthwise convolution and a normalization, with samples beside it."""
    text = SEPARABLE.replace("float[64,64] v>", "float[64,64] v, int64[1] axes = {3}>")
    save(parse(text, seed=2), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=RNG.standard_normal((12, 3, 12, 12), dtype=np.float32))
    return tmp_path / "net.onnx"


def test_corrections_are_reported_and_onnxruntime_runs_the_result(
    quantize: Command, separable: Path
) -> None:
    data = str(separable.with_name("data.npz"))
    corrections = ["--bias-correction", "--smooth-quant", "0.5", "--equalize"]
    done = quantize(separable, "--calibration-data", data, *corrections, "--min-cosine", "0.99")
    assert done.exit_code == 0, done.errors
    assert "equalize: 1 pairs of convolutions" in done.output
    assert "smooth-quant: 1 products behind 1 activations smoothed" in done.output
    assert "int8: 3 products quantized, 0 kept in fp32" in done.output
    assert "bias correction: 3 products corrected, 0 left" in done.output
    path = separable.with_name("int8.onnx")
    onnx.checker.check_model(path, full_check=True)
    assert ort.InferenceSession(path).get_outputs()[0].shape == [1, 12, 64]


@pytest.mark.parametrize("form", ["dequantize", "matmulnbits"])
@pytest.mark.parametrize(("dtype", "similarity"), [("int8", 0.9999), ("int4", 0.99)])
def test_weights_only_is_smaller_and_near(
    quantize: Command, separable: Path, dtype: str, similarity: float, form: str
) -> None:
    options = ["--weights-only", dtype, "--block-size", "64", "--format", form]
    done = quantize(separable, *options, "--json", "-")
    assert done.exit_code == 0, done.errors
    report = json.loads(done.output)
    assert similarity < report["cosine"]["y"] < 1
    operator = "MatMulNBits" if form == "matmulnbits" else "DequantizeLinear"
    assert sum(n for op, n in report["operators"].items() if op.endswith(operator)) == 1
    assert set(report["kept"].values()) == {"its weights are not a matrix"}
    x = np.load(separable.with_name("data.npz"))["x"][:1]
    (found,) = ort.InferenceSession(separable.with_name("int8.onnx")).run(None, {"x": x})
    (wanted,) = ort.InferenceSession(separable).run(None, {"x": x})
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()


def test_weights_only_may_know_what_they_multiply(quantize: Command, separable: Path) -> None:
    data = str(separable.with_name("data.npz"))
    found = []
    for method in ("rtn", "awq"):
        options = ["--weights-only", "int4", "--weight-method", method, "--json", "-"]
        done = quantize(separable, *options, "--calibration-data", data, "--overwrite")
        assert done.exit_code == 0, done.errors
        found.append(json.loads(done.output))
    assert found[0]["cosine"]["y"] < found[1]["cosine"]["y"] < 1
    assert not any("divided" in note for note in found[0]["notes"])
    assert any("activations divided" in note for note in found[1]["notes"])


def test_what_weights_multiply_is_measured_on_data(quantize: Command, separable: Path) -> None:
    done = quantize(separable, "--weights-only", "int4", "--weight-method", "awq")
    assert done.exit_code == 2
    assert "--weight-method awq needs calibration data" in done.errors
    done = quantize(separable, "--weight-method", "rtn")
    assert done.exit_code == 2
    assert "--weight-method is of use with --weights-only only" in done.errors


@pytest.mark.parametrize(
    ("first", "again"),
    [(True, True), (True, False), (False, True)],
    ids=["twice on data", "then by each call", "int4 first"],
)
def test_what_comes_quantized_stays_as_it_is(
    quantize: Command, separable: Path, first: bool, again: bool
) -> None:
    data = ["--calibration-data", str(separable.with_name("data.npz"))]
    only = ["--op-types-to-exclude", "Conv"]
    form = [*data, *only] if first else ["--weights-only", "int4"]
    assert quantize(separable, *form).exit_code == 0
    stored = separable.with_name("int8.onnx").rename(separable.with_name("stored.onnx"))
    done = quantize(stored, *(data if again else []), "--json", "-")
    assert done.exit_code == 0, done.errors
    kept = json.loads(done.output)["kept"].values()
    assert "its weights are quantized already" in kept
    before, after = onnx.load(stored), onnx.load(stored.with_name("int8.onnx"))
    (weights,) = (t for t in before.graph.initializer if t.name == "v_quantized")
    assert weights in after.graph.initializer
    products = [n.op_type for n in after.graph.node if "MatMul" in n.op_type]
    assert products == ["MatMul"]
    convolutions = sum(n.op_type == "DequantizeLinear" for n in after.graph.node) > 4
    assert convolutions == again
