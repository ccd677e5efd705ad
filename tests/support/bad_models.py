"""Model files that are wrong in one way each; every function writes one into a folder."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser

HEADER = '<ir_version: 8, opset_import: ["": 17]>\n'
GOOD = HEADER + "g (float[n, 4] x) => (float[n, 4] y) { e = Exp(x)  y = Add(e, x) }"


def write(folder: Path, text: str, name: str = "model.onnx") -> Path:
    """A model in ONNX's text syntax, unchecked."""
    path = folder / name
    path.write_bytes(onnx.parser.parse_model(text).SerializeToString())
    return path


def good(folder: Path) -> Path:
    return write(folder, GOOD)


def truncated(folder: Path) -> Path:
    path = good(folder)
    path.write_bytes(path.read_bytes()[:-9])
    return path


def empty(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"")
    return path


def text_file(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_text("This is not a model.\n" * 20)
    return path


def picture(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4)
    return path


def bare_graph(folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(onnx.parser.parse_model(GOOD).graph.SerializeToString())
    return path


def external(folder: Path, location: str, *, length: int | None = None) -> Path:
    """``y = x + w`` with 16 bytes of ``w`` said to lie at ``location``."""
    model = onnx.parser.parse_model(
        HEADER + "g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, w) }"
    )
    weight = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, location, 0, length or 16)
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    model.graph.initializer.append(weight)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _outside(folder: Path) -> Path:
    """Data of the right size that the model must not reach."""
    path = folder.parent / f"{folder.name}-outside.bin"
    path.write_bytes(bytes(16))
    return path


def missing_data(folder: Path) -> Path:
    return external(folder, "weights.bin")


def data_above(folder: Path) -> Path:
    return external(folder, f"../{_outside(folder).name}")


def data_above_by_detour(folder: Path) -> Path:
    (folder / "inner").mkdir()
    return external(folder, f"inner/../../{_outside(folder).name}")


def absolute_data(folder: Path) -> Path:
    return external(folder, str(_outside(folder)))


def linked_data(folder: Path) -> Path:
    os.symlink(_outside(folder), folder / "weights.bin")
    return external(folder, "weights.bin")


def data_in_linked_folder(folder: Path) -> Path:
    os.symlink(folder.parent, folder / "inner")
    return external(folder, f"inner/{_outside(folder).name}")


def short_data(folder: Path) -> Path:
    (folder / "weights.bin").write_bytes(bytes(7))
    return external(folder, "weights.bin")


def cyclic(folder: Path) -> Path:
    return write(folder, HEADER + "g (float[4] x) => (float[4] y) { y = Add(x, z)  z = Relu(y) }")


def undefined_value(folder: Path) -> Path:
    return write(folder, HEADER + "g (float[4] x) => (float[4] y) { y = Add(x, nowhere) }")


def written_twice(folder: Path) -> Path:
    return write(folder, HEADER + "g (float[4] x) => (float[4] y) { y = Relu(x)  y = Exp(x) }")


def mixed_types(folder: Path) -> Path:
    return write(folder, HEADER + "g (float[4] x, int64[4] k) => (float[4] y) { y = Add(x, k) }")


def wrong_shapes(folder: Path) -> Path:
    return write(
        folder, HEADER + "g (float[2, 3] x, float[5, 4] w) => (float[2, 4] y) { y = MatMul(x, w) }"
    )


def unknown_operators(folder: Path) -> Path:
    return write(
        folder,
        '<ir_version: 8, opset_import: ["": 17, "acme": 1]>\n'
        "g (float[4] x) => (float[4] y)"
        "{ a = acme.Frobnicate(x)  b = Relu(a)  y = acme.Twiddle(b) }",
    )


def operator_of_no_opset(folder: Path) -> Path:
    return write(folder, HEADER + "g (float[4] x) => (float[4] y) { y = Reluu(x) }")


def future_opset(folder: Path) -> Path:
    return write(
        folder,
        '<ir_version: 8, opset_import: ["": 999]>\ng (float[4] x) => (float[4] y) { y = Relu(x) }',
    )
