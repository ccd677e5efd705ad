"""A reference that has run already: inputs, and what a model computed from them elsewhere.

What a training framework computes cannot be asked for where a model is compiled: that is another
process, which does not have the framework.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from burnish.errors import UsageError


@dataclass(frozen=True)
class RecordedCase:
    """One call.

    Attributes:
        inputs: Arrays by name, in the model's order.
        outputs: The same of the outputs.
    """

    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]

    def named(self, inputs: Sequence[str], outputs: Sequence[str]) -> RecordedCase:
        """The case under the names of another form of the model.

        Arrays go by name where all names are known there, and by position otherwise.

        Raises:
            UsageError: The numbers of inputs or outputs differ.
        """
        return RecordedCase(
            _named(self.inputs, inputs, "inputs"), _named(self.outputs, outputs, "outputs")
        )


@dataclass(frozen=True)
class RecordedReference:
    """What a model computed.

    Attributes:
        model: What it is called.
        description: What ran it.
        cases: The calls.
        seed: Seed of the inputs, None where they were given.
    """

    model: str
    description: str
    cases: tuple[RecordedCase, ...]
    seed: int | None = None


def _named(
    arrays: dict[str, NDArray[Any]], names: Sequence[str], kind: str
) -> dict[str, NDArray[Any]]:
    if set(arrays) == set(names):
        return {name: arrays[name] for name in names}
    if len(arrays) != len(names):
        raise UsageError(
            f"the compiled model has {len(names)} {kind} ({', '.join(names)}), "
            f"the reference {len(arrays)} ({', '.join(arrays)})",
            hint="compare a model with what it was compiled from",
        )
    return dict(zip(names, arrays.values(), strict=True))
