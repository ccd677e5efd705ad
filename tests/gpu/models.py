"""The models of the GPU checks, with weights of random signs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
from onnx import numpy_helper

from tests.gpu.compact import random_signs
from tests.models.feeds import feeds as zoo_feeds
from tests.models.registry import ALL
from tests.models.store import model_path

Feeds = dict[str, npt.NDArray[Any]]
#: Smaller tensors stay as they are: biases, gains, constants of the graph.
_LARGE = 4096

#: Two layers and a condition on dynamic dims: what goes wrong here has nothing to do with size.
_SMOKE = """<ir_version: 10, opset_import: ["": 21]>
smoke (float[batch, 3, 17, 19] x, float[rows, parts, 10] s) => (float[batch, parts, 10] y)
<float[40, 3, 3, 3] w, float[40] b, float[40, 10] v>
{
  c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, w, b)
  r = Relu(c)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  m = MatMul(f, v)
  axes = Constant <value_ints = [1]> ()
  u = Unsqueeze(m, axes)
  y = Add(u, s)
}"""


@dataclass(frozen=True)
class GpuModel:
    """A model and the sizes of its symbolic dims that it runs at; the first is timed."""

    name: str
    sizes: tuple[dict[str, int], ...] = ({},)

    def onnx(self) -> onnx.ModelProto:
        """The model, weights replaced by random signs of the same size."""
        if self.name == "smoke":
            return _smoke()
        model = onnx.load(model_path(self.name))
        for seed, tensor in enumerate(model.graph.initializer):
            data = numpy_helper.to_array(tensor)
            if data.dtype == np.float32 and data.size >= _LARGE:
                name = tensor.name
                tensor.CopyFrom(numpy_helper.from_array(random_signs(data, seed), name))
        return model

    def feeds(self, size: dict[str, int], seed: int) -> Feeds:
        """Seeded inputs at one size."""
        if self.name == "smoke":
            rng = np.random.default_rng(seed)
            shapes = {"x": (size["batch"], 3, 17, 19), "s": (size["rows"], size["parts"], 10)}
            return {k: rng.standard_normal(v, np.float32) for k, v in shapes.items()}
        return dict(zoo_feeds(ALL[self.name], size, seed=seed))


MODELS: dict[str, GpuModel] = {
    model.name: model
    for model in (
        GpuModel(
            "smoke", ({"batch": 2, "rows": 2, "parts": 3}, {"batch": 5, "rows": 5, "parts": 1})
        ),
        GpuModel("resnet50"),
        GpuModel("mobilenetv2"),
        GpuModel("bert"),
        GpuModel(
            "minilm",
            (
                {"batch": 1, "sequence": 128},
                {"batch": 3, "sequence": 33},
                {"batch": 1, "sequence": 1},
                {"batch": 8, "sequence": 256},
            ),
        ),
    )
}


def _smoke() -> onnx.ModelProto:
    model = onnx.parser.parse_model(_SMOKE)
    rng = np.random.default_rng(0)
    for info in list(model.graph.value_info):
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        data = rng.standard_normal(shape).astype(np.float32) / 4
        model.graph.initializer.append(numpy_helper.from_array(data, info.name))
        model.graph.value_info.remove(info)
    return model


def reference(path: Path, inputs: list[Feeds]) -> list[Feeds]:
    """onnxruntime's results without optimizations, by output name."""
    from burnish.check import Reference

    with Reference(str(path)) as session:
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(None, feeds), strict=True)) for feeds in inputs]
