"""Register tiles of direct convolutions as tactics: the rule's first, others beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.artifact import read_manifest
from burnish.backends import registry
from burnish.backends.cpu.rules.conv import direct_tactics
from burnish.check import compare
from burnish.ir import Node
from burnish.lowering.context import NodeContext
from burnish.lowering.tactics import Tactic, by_tactics
from tests.support.bundle import Case, compile_here, model_of

NET = Case(
    "(float[1,24,17,13] x) => (float[1,40,9,7] y) <float[40,24,3,3] w, float[40] b> "
    "{ a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w, b) y = Relu(a) }"
)
DYNAMIC = Case(
    "(float[1,24,17,width] x) => (float[1,40,17,width] y) <float[40,24,3,3] w, float[40] b> "
    "{ a = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(a) }"
)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Builds take the tactic ``take`` of those that there are; ``all`` is filled with these."""
    chosen: dict[str, Any] = {"take": 0, "all": []}

    def one(ctx: NodeContext, node: Node) -> Iterator[Tactic]:
        chosen["all"] = list(direct_tactics(ctx, node))
        yield chosen["all"][chosen["take"]]

    resolve = registry.resolve_target

    def planted(spec: str, precision: str = "fp32") -> Any:
        target = resolve(spec, precision)
        rules = target.backend.rules()
        rule = replace(rules["burnish::Conv"], emit=by_tactics(one))
        backend = replace(target.backend, rules=lambda: {**rules, rule.key: rule})
        return replace(target, backend=backend)

    monkeypatch.setattr(registry, "resolve_target", planted)
    return chosen


@pytest.mark.parametrize("target", ["x86", "x86-64-v3"])
def test_every_tile_computes_the_same(target: str, seen: dict[str, Any], tmp_path: Path) -> None:
    model, names = model_of(NET, "tiles", np.random.default_rng(3)), []
    while True:
        compiled, _ = compile_here(model, tmp_path, target=target)
        with compiled:
            compare(compiled, model).raise_if_failed()
        nodes = read_manifest(tmp_path / "model.burnish").nodes
        names += [node.tactic for node in nodes if node.tactic]
        if len(names) == len(seen["all"]):
            break
        seen["take"] = len(names)
    assert len(set(names)) == len(names) >= 3
    costs = [tactic.cost for tactic in seen["all"]]
    assert costs[0] == min(costs)


def test_images_of_unknown_width_have_the_tile_of_the_rule(
    seen: dict[str, Any], tmp_path: Path
) -> None:
    compiled, _ = compile_here(model_of(DYNAMIC, "dynamic", np.random.default_rng(3)), tmp_path)
    compiled.close()
    assert [tactic.name for tactic in seen["all"]] == ["conv tile 6x3"]
