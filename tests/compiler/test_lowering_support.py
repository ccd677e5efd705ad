"""What nothing can lower is listed even where a part of the model has no types."""

from __future__ import annotations

from burnish.importers import load
from burnish.lowering.support import known_nowhere
from tests.support.roundtrip import model


def test_everything_is_listed_at_once() -> None:
    proto = model(
        """g (float[2,3] x, uint8[9] f) => (z, i) {
            a = acme.Twice(x)
            b = Relu(a)
            z = acme.Twice(b)
            i = ImageDecoder(f)
            n = LayerNormalization(x, x)
            s = Swish(x)
        }""",
        25,
        imports=', "acme" : 1',
    )
    found = known_nowhere(load(proto), {"LayerNormalization"})
    assert {key: len(names) for (key, _), names in found.items()} == {
        "acme::Twice": 2,
        "ImageDecoder": 1,
    }
    assert {reason for key, reason in found if key == "ImageDecoder"} == {
        "no lowering for this operator"
    }
