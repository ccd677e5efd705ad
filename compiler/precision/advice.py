"""What helps where a model in a lower precision differs too much from the original."""

from __future__ import annotations

from burnish.options import CompileOptions

#: By precision of the whole model.
_OTHER = {
    "fp16": "keep fp32, or use --precision bf16, which has its range",
    "bf16": "keep fp32, or use --precision fp16, which has more bits",
}


def advice(options: CompileOptions, *, quantized: bool = False) -> str | None:
    """A hint for the user; None if the precision is not to blame.

    Args:
        options: What the user chose.
        quantized: Whether burnish has quantized products.
    """
    if quantized:
        return "another --calibration-method, more samples, --nodes-to-exclude, --precision auto"
    if options.precision in _OTHER and options.calibration_data is None:
        return "give samples with --calibration-data: what they show to need fp32 keeps it"
    return _OTHER.get(options.precision)
