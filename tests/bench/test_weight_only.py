"""That the benchmark of stored weights measures what it says."""

from __future__ import annotations

import pytest

from tests.bench import weight_only


@pytest.mark.slow
def test_every_runner_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["64x48", "--bits", "4", "--calls", "2", "--rows", "3"]
    (row,) = weight_only.main(arguments)
    assert set(row.ms) == {"burnish", "onnxruntime level 1", "onnxruntime level 4"}
    assert row.nbytes == 64 * 48 // 2 + 4 * 2 * 48
    assert all(0 < share < 1 for share in row.share.values())
    assert "64x48 4 bits: burnish" in capsys.readouterr().out


def test_a_chain_has_weights_of_its_own_for_each_product() -> None:
    sizes = weight_only.chain("64x48*3")
    assert sizes == [(64, 48), (48, 64), (64, 48)]
    model = weight_only.model_of(sizes, 4, 32, 0)
    held = {c.name: c.raw_data for c in model.graph.initializer}
    assert len(set(held.values())) == len(held) == 6
    assert [node.output[0] for node in model.graph.node] == ["x1", "x2", "x3"]
