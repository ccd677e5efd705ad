"""The pass catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

import burnish.passes
from burnish.passes.base import Pass
from burnish.passes.catalogue import _all_passes, catalogue


def test_the_file_is_current() -> None:
    path = Path(burnish.passes.__path__[0]) / "README.md"
    if not path.exists():
        pytest.skip("an installed package has no catalogue beside it")
    assert path.read_text() == catalogue(), (
        "run: python -m burnish.passes.catalogue > passes/README.md"
    )


@pytest.mark.parametrize("item", _all_passes(), ids=lambda p: p.name)
def test_every_pass_states_its_contract(item: Pass) -> None:
    text = type(item).contract()
    for part in ("Before:", "After:", "Keeps:", "Numerics:"):
        assert part in text, f"{item.name} has no line {part}"
    numerics = text.split("Numerics:")[1].split()[0].strip(".,;:")
    assert numerics == item.numerics.value


def test_names_are_the_modules_or_classes() -> None:
    names = [p.name for p in _all_passes()]
    assert len(names) == len(set(names))
    assert all(name == name.lower() and " " not in name for name in names)
