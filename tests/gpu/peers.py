"""The same networks in torch on the same GPU: what the times are compared with."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from typing import Any

#: By model: how it is made, and the shapes of the inputs that are timed.
_Make = Callable[[Any], tuple[Any, tuple[Any, ...]]]


def measure(cases: list[dict[str, Any]], seconds: float, limit: float) -> Iterator[dict[str, Any]]:
    """Times of torch's eager and compiled models, as far as ``limit`` seconds reach.

    What is missing (torch, torchvision, transformers, a GPU for torch) is left out with a line.
    """
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        print("torch is not installed: nothing to compare the times with")
        return
    if not torch.cuda.is_available():
        print("torch sees no GPU: nothing to compare the times with")
        return
    end = time.perf_counter() + limit
    for how in ("eager", "compiled"):
        for case in cases:
            make = _MAKERS.get(case["model"])
            if make is None:
                continue
            if time.perf_counter() > end:
                print(f"{case['name']}: no time left for torch, {how}")
                continue
            try:
                spent = _time(torch, make, case, how, seconds)
            except Exception as error:  # reported; the others still run
                print(f"{case['name']}: torch, {how}: {type(error).__name__}: {error}")
                continue
            yield {"name": case["name"], "how": how, "milliseconds": spent}


def _time(torch: Any, make: _Make, case: dict[str, Any], how: str, seconds: float) -> float:
    """Median of a call, inputs from and outputs to the host's memory."""
    from tests.gpu.measure import median_ms

    module, inputs = make(torch)
    dtype = torch.float16 if case["precision"] == "fp16" else torch.float32
    module = module.eval().to("cuda", dtype)
    if how == "compiled":
        module = torch.compile(module)

    def call() -> None:
        moved = [
            x.to("cuda", dtype) if x.is_floating_point() else x.to("cuda", non_blocking=True)
            for x in inputs
        ]
        result = module(*moved)
        if not torch.is_tensor(result):
            result = result[0]
        result.float().cpu()

    with torch.inference_mode():
        return median_ms(call, seconds)


def _vision(name: str) -> _Make:
    def make(torch: Any) -> tuple[Any, tuple[Any, ...]]:
        models = importlib.import_module("torchvision.models")
        return getattr(models, name)(weights=None), (torch.randn(1, 3, 224, 224),)

    return make


def _text(**config: int) -> _Make:
    def make(torch: Any) -> tuple[Any, tuple[Any, ...]]:
        transformers = importlib.import_module("transformers")
        module = transformers.BertModel(transformers.BertConfig(**config))
        ids = torch.randint(0, 30522, (1, 128))
        return module, (ids, torch.ones_like(ids))

    return make


_MAKERS: dict[str, _Make] = {
    "resnet50": _vision("resnet50"),
    "mobilenetv2": _vision("mobilenet_v2"),
    "bert": _text(),
    "minilm": _text(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
}
