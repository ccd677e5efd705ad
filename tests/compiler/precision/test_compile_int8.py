"""``compile --precision int8``: from samples to an artifact, and what it is refused for."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import burnish
from burnish.artifact import read_manifest
from burnish.cli.main import main
from burnish.errors import AccuracyError, BurnishError, PrecisionError, UsageError
from burnish.export import save
from tests.support.golden import parse
from tests.support.quantization import SMALL_NET

RNG = np.random.default_rng(8)
X = RNG.standard_normal((24, 3, 12, 12), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, with samples beside it."""
    folder = tmp_path_factory.mktemp("int8")
    save(parse(SMALL_NET, seed=2), folder / "net.onnx")
    np.savez(folder / "data.npz", x=X)
    (folder / "data.py").write_text(
        "import numpy as np\n"
        "def samples():\n"
        "    for row in np.load(__file__.replace('.py', '.npz'))['x']:\n"
        "        yield {'x': row[None]}\n"
    )
    return folder


def products(artifact: Any) -> dict[str, tuple[str, str]]:
    """Precision and reason of each product, by original name."""
    return {
        name: (node.precision, node.reason)
        for node in read_manifest(artifact).nodes
        if "Conv" in node.op or "MatMul" in node.op
        for name in node.nodes
    }


def names(model: Path) -> list[str]:
    """Names of the products of the network."""
    import onnx

    return [n.name for n in onnx.load(model).graph.node if n.op_type in ("Conv", "MatMul")]


def test_the_command_builds_integer_kernels_and_says_what_it_judged(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = folder / "net.burnish"
    data = str(folder / "data.npz")
    command = ["compile", str(folder / "net.onnx"), "-o", str(artifact), "--int8", "--strict"]
    assert main([*command, "--calibration-data", data, "--calibration-method", "mse"]) == 0
    out = capsys.readouterr().out
    assert "int8: 2 products quantized, 0 kept in fp32" in out
    assert "judged on 3 samples that nothing was measured on" in out
    assert "like onnxruntime within tolerance" in out
    found = products(artifact)
    assert {p for p, _ in found.values()} == {"int8"}
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert len(manifest["verification"]["outputs"]) == 3
    assert str(folder) not in json.dumps(manifest)  # the data, not where they lie
    assert len(manifest["options"]["calibration_sha256"]) == 64
    assert main(["compare", str(artifact), str(folder / "net.onnx")]) == 0


def generator() -> Iterator[dict[str, Any]]:
    """The samples, once."""
    for row in X:
        yield {"x": row[None]}


def test_all_forms_of_the_data_make_the_same_artifact(folder: Path) -> None:
    digests = set()
    for index, data in enumerate(
        (generator(), [(row[None],) for row in X], str(folder / "data.py") + ":samples")
    ):
        out = folder / f"form{index}.burnish"
        burnish.compile_to(
            folder / "net.onnx", out, precision="int8", calibration_data=data, check=True
        )
        digests.add((out / "weights.safetensors").read_bytes())
        digests.add((out / "manifest.json").read_bytes())
    assert len(digests) == 2


def test_what_an_option_excludes_does_not_break_strict(folder: Path) -> None:
    conv, matmul = names(folder / "net.onnx")
    out = folder / "part.burnish"
    report = burnish.compile_to(
        folder / "net.onnx",
        out,
        precision="int8",
        calibration_data=X[:4],
        nodes_to_exclude=[conv],
        strict=True,
        check=True,
    )
    found = products(out)
    assert found[matmul][0] == "int8"
    assert found[conv] == ("fp32", f"excluded by {conv!r}")
    assert report.kept == {conv: f"excluded by {conv!r}"}
    assert any("of less than 8 none is held out" in note for note in report.notes)


INSIDE = """g (float[1,8] x, bool c) => (float[1,8] y) <float[8,8] w> {
    a = MatMul(x, w)
    y = If (c) <
        then_branch = t () => (float[1,8] p) { r = Relu(a) p = MatMul(r, w) },
        else_branch = e () => (float[1,8] q) { q = Relu(a) }
    >
}"""


def test_strict_names_what_stayed_higher_and_why(tmp_path: Path) -> None:
    save(parse(INSIDE, seed=3), tmp_path / "inside.onnx")
    data = [{"x": row, "c": np.array(False)} for row in RNG.standard_normal((9, 1, 8), np.float32)]
    with pytest.raises(PrecisionError) as caught:
        burnish.compile_to(
            tmp_path / "inside.onnx",
            tmp_path / "no.burnish",
            precision="int8",
            calibration_data=data,
            strict=True,
        )
    assert "1 of 2 products are not in int8" in caught.value.message
    assert "r was reached by no calibration sample" in str(caught.value.at)
    assert caught.value.exit_code == 13
    assert not (tmp_path / "no.burnish").exists()


def test_without_data_matrix_products_are_quantized_by_each_call(folder: Path) -> None:
    model = burnish.compile(folder / "net.onnx", precision="int8", check=True)
    assert any("DynamicQuantize" in node.op for node in model.manifest.nodes)


def test_what_is_too_far_from_the_model_is_not_built(tmp_path: Path) -> None:
    """The samples that are held out lie far outside of the ranges of the others."""
    save(parse("g (float[1,8] x) => (float[1,4] y) <float[8,4] w> { y = MatMul(x, w) }"),
         tmp_path / "m.onnx")  # fmt: skip
    data = RNG.standard_normal((16, 1, 8), np.float32)
    data[7::8] *= 50
    with pytest.raises(AccuracyError, match="outputs differ") as caught:
        burnish.compile_to(
            tmp_path / "m.onnx",
            tmp_path / "no.burnish",
            precision="int8",
            calibration_data=list(data),
            check=True,
        )
    assert "--precision auto" in str(caught.value.hint)
    assert not (tmp_path / "no.burnish").exists()


def test_the_cache_tells_data_and_options_apart(folder: Path, tmp_path: Path) -> None:
    def build(name: str, **options: Any) -> bool:
        report = burnish.compile_to(
            folder / "net.onnx",
            tmp_path / name,
            precision="int8",
            cache_dir=tmp_path / "cache",
            **options,
        )
        return report.cached

    assert not build("a", calibration_data=X[:4])
    assert build("b", calibration_data=[{"x": row[None]} for row in X[:4]])
    assert not build("c", calibration_data=X[:5])
    assert not build("d", calibration_data=X[:4], calibration_method="percentile")


BAD = {
    "no samples": ({"calibration_data": []}, "holds no samples"),
    "shape": ({"calibration_data": [np.zeros((2, 2), np.float32)]}, "has shape"),
    "no data": ({"calibration_data": 5}, "no calibration data"),
    "misspelled": ({"calibration_data": X[:2], "nodes_to_exclude": ["n_x"]}, "no node is called"),
    "nothing left": ({"calibration_data": X[:2], "nodes_to_exclude": [".*"]}, "nothing was"),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(case: str, folder: Path, tmp_path: Path) -> None:
    options, message = BAD[case]
    with pytest.raises(BurnishError, match=message) as caught:
        burnish.compile_to(folder / "net.onnx", tmp_path / "no", precision="int8", **options)
    assert caught.value.exit_code == 2
    assert not (tmp_path / "no").exists()


def test_a_target_without_integer_kernels_is_refused(folder: Path) -> None:
    with pytest.raises(BurnishError, match="no kernels for precision int8") as caught:
        burnish.compile_to(folder / "net.onnx", folder / "a", precision="int8", target="arm")
    assert caught.value.exit_code == 5


def test_options_are_taken_from_any_mapping() -> None:
    from burnish.precision.options import QuantizeOptions, take_quantize_options

    values: dict[str, Any] = {"nodes_to_exclude": "a", "equalize": True, "threads": 2}
    found = take_quantize_options(values)
    assert values == {"threads": 2}
    assert found is not None
    assert found.selection.nodes_to_exclude == ("a",)
    assert dataclasses.replace(found, selection=QuantizeOptions().selection, equalize=False) == (
        QuantizeOptions()
    )
    assert take_quantize_options(values) is None
    with pytest.raises(UsageError):
        take_quantize_options({"weights_only": "int4", "equalize": True})
