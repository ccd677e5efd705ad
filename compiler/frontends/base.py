"""What a training framework has to offer so that its models can be compiled and compared."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from burnish.check import RecordedReference
    from burnish.check.inputs import Shapes


@dataclass(frozen=True)
class Exported:
    """A model as an ONNX file.

    Attributes:
        path: The file, with large weights in another file beside it.
        example_inputs: The inputs that it was exported with, on the CPU; None if there were none.
        reference: Inputs, and what the model itself computes from them; None where it was not
            asked for.
    """

    path: Path
    example_inputs: Any = None
    reference: RecordedReference | None = None


class Frontend(Protocol):
    """One model of a training framework."""

    @property
    def name(self) -> str:
        """What the model is called in messages."""

    def export(
        self, folder: Path, example_inputs: Any, dynamic_shapes: Any, *, record: bool
    ) -> Exported:
        """Write the model as ONNX into ``folder``.

        Args:
            folder: Gets the file.
            example_inputs: Inputs of one call.
            dynamic_shapes: Which of their dims are symbolic.
            record: Also record what the model computes, from the example and from numbers drawn
                like it.
        """

    def record(
        self,
        inputs: Any,
        declared: Sequence[Any],
        *,
        drawn_like: Any = None,
        shapes: Shapes | None = None,
        seed: int = 0,
    ) -> RecordedReference:
        """What the model itself computes.

        Args:
            inputs: Inputs of one call, or a list of several; None to draw them.
            declared: What a compiled form of the model says of its inputs, for drawing.
            drawn_like: Example inputs that drawn ones shall be like, if there are any.
            shapes: Shapes of inputs that are drawn by what is declared, by name.
            seed: Seed of inputs that are drawn.
        """


def frontend(model: object) -> Frontend | None:
    """The frontend of a model; None for what is no model of a known framework."""
    # Who has a model of a framework has imported the framework.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        from burnish.frontends.torch_module import TorchModule

        return TorchModule(model)
    keras = sys.modules.get("keras")
    if keras is not None and isinstance(model, keras.Model):
        from burnish.frontends.keras_model import KerasModel

        return KerasModel(model)
    return None
