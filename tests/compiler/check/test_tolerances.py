from __future__ import annotations

import numpy as np
import pytest

from burnish.check import tolerance
from burnish.errors import UsageError


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8, "int32"])
def test_integers_are_exact(dtype: object) -> None:
    assert tolerance(np.dtype(dtype)).atol == tolerance(np.dtype(dtype)).rtol == 0


def test_rows_widen_with_what_the_computation_may_do() -> None:
    rows = [tolerance("float32", n) for n in ("exact", "reassociates", "approximates", "model")]
    assert [r.atol for r in rows] == sorted(r.atol for r in rows)
    assert [r.rms for r in rows] == sorted(r.rms for r in rows)
    assert rows[0].atol == rows[0].rms == 0
    assert rows[-1].rms < 2.0**-11 / 3**0.5, "one rounding to fp16 must not fit"


def test_unknown_rows_are_errors() -> None:
    with pytest.raises(UsageError, match="complex64"):
        tolerance("complex64")


def test_models_in_16_bits_have_their_own_row() -> None:
    wide, narrow = tolerance("float32"), tolerance("float32", "fp16")
    assert narrow.rms > 10 * wide.rms
    assert narrow == tolerance("float16", "fp16") == tolerance("float64", "fp16")
    assert narrow.rms <= 0.05, "a model that lost its signal must not pass"
