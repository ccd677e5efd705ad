"""Models with values that are no tensors are refused by operator."""

from __future__ import annotations

import onnx.parser
import pytest

from burnish.driver import import_model
from burnish.errors import UnsupportedOpError
from burnish.options import CompileOptions

HEAD = '<ir_version: 9, opset_import: ["" : 17, "acme" : 1]> '
WHY = "works on sequences or optionals; only tensors are supported"
UNKNOWN = "no such operator is known"

CASES = {
    "a list of tensors": (
        "g (float[4] x, int64 i) => (float[4] y) "
        "{ s = SequenceConstruct(x, x)  e = SequenceAt(s, i)  y = Exp(e) }",
        [f"1 x SequenceAt: {WHY}", f"1 x SequenceConstruct: {WHY}"],
    ),
    "parts in a list": (
        "g (float[n] x) => (float[n] y) { s = SplitToSequence<axis = 0>(x) "
        "c = ConcatFromSequence<axis = 0>(s)  y = Exp(c) }",
        [f"1 x ConcatFromSequence: {WHY}", f"1 x SplitToSequence: {WHY}"],
    ),
    "a sequence from a branch": (
        "g (bool c, float[4] x) => (float[4] y) <int64 i = {0}> "
        "{ s = If(c) <then_branch = t () => (seq(float[4]) p) { p = SequenceConstruct(x) }, "
        "else_branch = e () => (seq(float[4]) q) { q = SequenceConstruct(x, x) }> "
        "y = SequenceAt(s, i) }",
        [f"1 x SequenceAt: {WHY}", f"2 x SequenceConstruct: {WHY}"],
    ),
    "a foreign operator and one behind it": (
        "g (float[4] x) => (float[4] y) { a = acme.Fancy(x)  b = Exp(a)  y = acme.Other(b) }",
        [f"1 x acme::Fancy: {UNKNOWN}", f"1 x acme::Other: {UNKNOWN}"],
    ),
}


@pytest.mark.parametrize(("text", "lines"), CASES.values(), ids=CASES.keys())
def test_all_operators_at_fault_are_listed(text: str, lines: list[str]) -> None:
    model = onnx.parser.parse_model(HEAD + text).SerializeToString()
    with pytest.raises(UnsupportedOpError) as caught:
        import_model(model, CompileOptions())
    said = [line.strip().rpartition(" (")[0] for line in caught.value.message.splitlines()[1:]]
    assert said == lines
    assert caught.value.exit_code == 3


def test_models_of_tensors_are_not_refused() -> None:
    text = HEAD + "g (float[4] x) => (float[4] y) { a = Exp(x)  y = Abs(a) }"
    graph, _ = import_model(onnx.parser.parse_model(text).SerializeToString(), CompileOptions())
    assert [n.op for n in graph.nodes] == ["Exp", "Abs"]
