"""What the progress bar is told, and where it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from burnish.cli.progress import MEASURE_WEIGHTS, compile_weights, completed_share
from burnish.export import save
from burnish.precision.options import QuantizeOptions
from burnish.quantization import quantize_model
from tests.support.golden import parse

NET = """g (float[n,6] x) => (float[n,4] y) <float[6] s, float[6] b, float[6,8] v, float[8,4] w> {
    t = LayerNormalization(x, s, b)
    p = MatMul(t, v)
    r = Relu(p)
    y = MatMul(r, w)
}"""


@pytest.mark.parametrize("options", [{}, {"smooth_quant": 0.5, "equalize": True}])
@pytest.mark.parametrize("known", [True, False])
def test_quantizing_goes_from_nothing_to_all(
    tmp_path: Path, options: dict[str, object], known: bool
) -> None:
    save(parse(NET, seed=1), tmp_path / "net.onnx")
    rng = np.random.default_rng(1)
    data = [rng.standard_normal((2, 6), dtype=np.float32) for _ in range(8)]
    shares: list[float] = []

    def progress(phase: str, done: int, total: int) -> None:
        share = completed_share(MEASURE_WEIGHTS, phase, done / total)
        assert share is not None, phase
        shares.append(share)

    how = QuantizeOptions(calibration_samples=8 if known else None, **options)  # type: ignore[arg-type]
    quantize_model(
        str(tmp_path / "net.onnx"), str(tmp_path / "q.onnx"), iter(data), how, progress=progress
    )
    assert shares == sorted(shares), "it never goes back"
    # One pass over the samples for channels (no convolutions to even out), one for ranges.
    assert shares[0] < (0.2 if known else 0.1) * sum(MEASURE_WEIGHTS.values())
    assert shares[-1] == 90, "compared"


def test_phases_that_are_not_known_move_nothing() -> None:
    assert completed_share({"a": 1, "b": 3}, "b", 0.5) == 2.5
    assert completed_share({"a": 1, "b": 3}, "zz", 0.5) is None


def test_phases_of_a_compilation() -> None:
    plain = list(compile_weights())
    assert "tune" not in plain
    assert "calibrate" not in plain
    phases = list(compile_weights(tune_seconds=9, calibrates=True))
    assert phases.index("import") + 1 == phases.index("calibrate")
    assert phases.index("tune") + 1 == phases.index("lower")
    assert [p for p in phases if p not in ("calibrate", "tune")] == plain
