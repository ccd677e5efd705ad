"""Why a rewrite rule did not apply."""

from __future__ import annotations

from burnish.passes.base import Pass, PassContext
from burnish.passes.patterns import Tracer
from tests.support import golden


def reasons(item: Pass, rule: str, text: str) -> list[str]:
    """Assert that a pass leaves a graph as it is, and return why a rule of it did not apply."""
    graph = golden.parse(text)
    tracer = Tracer(rule)
    assert not golden.apply(item, graph, PassContext(options={"tracer": tracer}))
    return [miss.reason for miss in tracer.nearest(50)]
