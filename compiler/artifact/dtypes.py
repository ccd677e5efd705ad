"""Element types by name, and what numpy, DLPack and safetensors call them.

Names are numpy's (``float32``, ``bool``) and ml_dtypes' (``bfloat16``): those of the manifest, of
onnxruntime's ``tensor(float)`` only in :attr:`DataType.ort`.
"""

from __future__ import annotations

from dataclasses import dataclass

# DLPack's type codes (DLDataTypeCode).
_INT, _UINT, _FLOAT, _BFLOAT, _COMPLEX, _BOOL = 0, 1, 2, 4, 5, 6


@dataclass(frozen=True)
class DataType:
    """One element type.

    Attributes:
        name: Its name.
        code: DLPack type code.
        bits: Bits of one element.
        safetensors: Name in a safetensors header; empty if the format lacks it.
        ort: The element type in onnxruntime's spelling, as in ``tensor(float)``.
        numpy: The numpy dtype that holds its bits: itself, or an integer where numpy has none.
    """

    name: str
    code: int
    bits: int
    safetensors: str
    ort: str
    numpy: str

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.bits // 8


def _row(
    name: str, code: int, bits: int, safe: str, ort: str, numpy: str | None = None
) -> DataType:
    return DataType(name, code, bits, safe, ort, numpy or name)


#: Every element type that an input, output or weight may have.
DATA_TYPES: dict[str, DataType] = {
    row.name: row
    for row in (
        _row("float64", _FLOAT, 64, "F64", "double"),
        _row("float32", _FLOAT, 32, "F32", "float"),
        _row("float16", _FLOAT, 16, "F16", "float16"),
        _row("bfloat16", _BFLOAT, 16, "BF16", "bfloat16", "uint16"),
        _row("int64", _INT, 64, "I64", "int64"),
        _row("int32", _INT, 32, "I32", "int32"),
        _row("int16", _INT, 16, "I16", "int16"),
        _row("int8", _INT, 8, "I8", "int8"),
        _row("uint64", _UINT, 64, "U64", "uint64"),
        _row("uint32", _UINT, 32, "U32", "uint32"),
        _row("uint16", _UINT, 16, "U16", "uint16"),
        _row("uint8", _UINT, 8, "U8", "uint8"),
        _row("bool", _BOOL, 8, "BOOL", "bool"),
        _row("complex64", _COMPLEX, 64, "", "complex64"),
    )
}


def held_as(name: str) -> str:
    """The type of the bits that kernels see of an element type: its own, or an integer's."""
    row = DATA_TYPES.get(name)
    return name if row is None else row.numpy
