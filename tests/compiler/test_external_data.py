"""External data: mapped, lazy, and kept inside the model's folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from burnish.errors import BurnishError, InputFileError, ModelError
from burnish.export import save
from burnish.importers import load
from tests.support.roundtrip import model, run

WEIGHTS = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)


def _proto(**entries: object) -> onnx.ModelProto:
    """MatMul with a weight whose external data has these entries."""
    proto = model("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", 17)
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=WEIGHTS.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    proto.graph.initializer.append(tensor)
    return proto


def _write(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_data_are_mapped_and_loaded_late(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4096) + WEIGHTS.tobytes())
    path = _write(tmp_path, _proto(location="w.bin", offset=4096, length=WEIGHTS.nbytes))
    (value,) = load(path).constants()
    assert value.const is not None
    assert callable(value.const._array)
    assert isinstance(value.array, np.memmap)
    np.testing.assert_array_equal(value.array, WEIGHTS)


def test_offset_and_length_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(WEIGHTS.tobytes() + b"more")
    (value,) = load(_write(tmp_path, _proto(location="sub/w.bin"))).constants()
    np.testing.assert_array_equal(value.array, WEIGHTS)


def test_data_at_an_odd_place_are_aligned_in_memory(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"abc" + WEIGHTS.tobytes())
    (value,) = load(_write(tmp_path, _proto(location="w.bin", offset=3))).constants()
    np.testing.assert_array_equal(value.array, WEIGHTS)
    assert value.array.flags.aligned


def test_what_onnx_writes(tmp_path: Path) -> None:
    proto = model("g (float[N,64] x) => (float[N,64] y) { y = MatMul(x, w) }", 17)
    proto.graph.initializer.append(numpy_helper.from_array(WEIGHTS, "w"))
    expected = run(proto, {"x": X})
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load(path)
    save(graph, tmp_path / "again.onnx", external_data=True)
    assert (tmp_path / "again.onnx.data").stat().st_size == WEIGHTS.nbytes
    assert (tmp_path / "again.onnx").stat().st_size < 1000
    again = onnx.load(tmp_path / "again.onnx")
    np.testing.assert_array_equal(run(again, {"x": X})[0], expected[0])


def test_four_bit_data(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes([0x21, 0xF3]))
    proto = model("g (float[1] x) => (float[1] y, float[3] z) { y = Relu(x) z = Cast<to=1>(w) }")
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.INT4, dims=[3])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    proto.graph.initializer.append(tensor)
    (value,) = load(_write(tmp_path, proto)).constants()
    assert value.dtype == "int4"
    assert value.array.astype(np.int32).tolist() == [1, 2, 3]


REFUSED: dict[str, tuple[dict[str, object], type[BurnishError], str]] = {
    "parent": ({"location": "../w.bin"}, ModelError, "leaves the folder"),
    "parent-inside": ({"location": "sub/../../w.bin"}, ModelError, "leaves the folder"),
    "absolute": ({"location": "/etc/passwd"}, ModelError, "leaves the folder"),
    "backslash": ({"location": "..\\w.bin"}, ModelError, "leaves the folder"),
    "link": ({"location": "link.bin"}, ModelError, "link out of the folder"),
    "linked-folder": ({"location": "linked/w.bin"}, ModelError, "link out of the folder"),
    "nul": ({"location": "w\0.bin"}, ModelError, "without a location"),
    "no-location": ({"offset": 0}, ModelError, "without a location"),
    "missing": ({"location": "gone.bin"}, InputFileError, "cannot read external data"),
    "short": ({"location": "short.bin"}, InputFileError, "too short: 100 bytes, 16384 needed"),
    "beyond": ({"location": "w.bin", "offset": 8}, InputFileError, "too short"),
    "negative": ({"location": "w.bin", "offset": -8}, ModelError, "at -8"),
    "length": ({"location": "w.bin", "length": 100}, ModelError, "100 bytes at 0 for a tensor"),
    "words": ({"location": "w.bin", "offset": "two"}, ModelError, "broken offset or length"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_references(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "w.bin"
    outside.write_bytes(WEIGHTS.tobytes())
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "short.bin").write_bytes(bytes(100))
    (folder / "link.bin").symlink_to(outside)
    (folder / "linked").symlink_to(tmp_path)
    entries, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as caught:
        load(_write(folder, _proto(**entries)))
    assert type(caught.value) is kind
    assert caught.value.at == "w"
    if "folder" in message:
        assert caught.value.hint == "external data must lie in the folder of the model"


def test_a_model_object_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    proto = _proto(location="w.bin")
    with pytest.raises(ModelError, match="given without its folder") as caught:
        load(proto)
    assert caught.value.hint == "pass the path of the .onnx file"
    (value,) = load(proto, folder=tmp_path).constants()
    np.testing.assert_array_equal(value.array, WEIGHTS)
