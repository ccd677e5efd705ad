"""The cases of the ONNX backend suite: models, inputs and expected outputs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner, _normalize_tensor

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted", "real")


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        kind: A name of :data:`KINDS`.
        name: Its name in ONNX, unique within the suite.
        source: What ONNX's loader made of it.
    """

    kind: str
    name: str
    source: Any

    @property
    def tolerance(self) -> tuple[float, float]:
        """The case's own relative and absolute tolerance."""
        return self.source.rtol, self.source.atol

    def model(self) -> onnx.ModelProto:
        """The model as given."""
        if self.source.model is not None:
            return self.source.model
        return onnx.load(self._folder() / "model.onnx" if self.source.model_dir else self._light())

    def data_sets(self, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
        """Inputs and expected outputs, in the order of the model's."""
        if self.source.data_sets is not None:
            for inputs, outputs in self.source.data_sets:
                yield list(map(_normalize_tensor, inputs)), list(map(_normalize_tensor, outputs))
        elif self.source.model_dir:
            for folder in sorted(self._folder().glob("test_data_set_*")):
                yield (
                    _read_all(folder, "input", model.graph.input),
                    _read_all(folder, "output", model.graph.output),
                )
        else:
            # Real networks of the suite have generated weights, inputs by rule, and stored outputs.
            weights = {t.name for t in model.graph.initializer}
            free = [v for v in model.graph.input if v.name not in weights]
            path = self._light().with_name(self._light().stem + "_output_0.pb")
            yield [Runner.generate_dummy_data(v) for v in free], [_tensor(path)]

    def _folder(self) -> Path:
        return Path(self.source.model_dir)

    def _light(self) -> Path:
        return Path(onnx.__file__).parent / self.source.url.split("onnx/", 1)[1]


def load_cases() -> dict[str, Case]:
    """All cases by name, in the suite's order; the data of the node cases are made anew."""
    np.random.seed(0)  # noqa: NPY002  (the cases draw from this generator)
    found: dict[str, Case] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about what the cases are there to test
        for kind in KINDS:
            for source in load_model_tests(kind=kind):
                assert source.name not in found
                found[source.name] = Case(kind, source.name, source)
    return found


def _read_all(folder: Path, stem: str, declared: Any) -> list[Any]:
    count = len(list(folder.glob(f"{stem}_*.pb")))
    return [_read(folder / f"{stem}_{i}.pb", declared[i].type) for i in range(count)]


def _read(path: Path, type_proto: onnx.TypeProto) -> Any:
    kind = type_proto.WhichOneof("value")
    if kind == "sequence_type":
        sequence = onnx.SequenceProto()
        sequence.ParseFromString(path.read_bytes())
        return numpy_helper.to_list(sequence)
    if kind == "optional_type":
        optional = onnx.OptionalProto()
        optional.ParseFromString(path.read_bytes())
        return numpy_helper.to_optional(optional)
    return _tensor(path)


def _tensor(path: Path) -> Any:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)
