"""Real architectures with seeded random weights, exported by torch.

``python -m tests.models.export NAME DEST`` exports one. Needs torch, transformers and onnxscript.

Freshly initialised networks hide mistakes: biases are zero, norm gains one, attention scores so
small that softmax is uniform, and ConvNeXt's layer scale 1e-6 switches its blocks off. So every
parameter is drawn anew, see :func:`_draw_weights`; batch-norm statistics come from random images.

The files cannot be verified by their bytes. They repeat on one machine, but batch-norm statistics
change with the number of threads, and torch's normal distribution with the CPU's vector width.
Checked instead, against the table, are the number of operators and the sum of the weights.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch
import transformers
from safetensors.torch import load_file

from tests.models.registry import ALL, ExportedModel
from tests.models.store import file_path

OPSET = 17
WEIGHTS_RTOL = 1e-3


@dataclass
class Recipe:
    """A module and what to export it with.

    Attributes:
        call: From the module and the inputs to the one output.
        dynamo: Use torch's newer exporter.
        draw: Draw new weights; false keeps trained ones.
    """

    module: torch.nn.Module
    call: Callable[..., torch.Tensor]
    dynamo: bool = False
    draw: bool = True


class _Adapter(torch.nn.Module):
    """Positional inputs and one output around a transformers model."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.module, self.call = recipe.module, recipe.call

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, *inputs)


def _logits(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module(x).logits


def _hidden(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask).last_hidden_state


def _prefill(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask, use_cache=False).logits


def _segments(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor
) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state


def _bert(layers: int, *, attention: str = "eager", dynamo: bool = False) -> Recipe:
    config = transformers.BertConfig(num_hidden_layers=layers, attn_implementation=attention)
    return Recipe(transformers.BertModel(config), _hidden, dynamo)


def _gpt2(layers: int, *, attention: str = "eager", dynamo: bool = False) -> Recipe:
    config = transformers.GPT2Config(n_layer=layers, attn_implementation=attention)
    return Recipe(transformers.GPT2LMHeadModel(config), _prefill, dynamo)


def _llama() -> Recipe:
    config = transformers.LlamaConfig(
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=32000,
        attn_implementation="eager",
    )
    return Recipe(transformers.LlamaForCausalLM(config), _prefill)


def _whisper() -> Recipe:
    config = transformers.WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        decoder_layers=1,
        attn_implementation="eager",
    )
    encoder = transformers.WhisperModel(config).encoder
    return Recipe(encoder, lambda module, x: module(x).last_hidden_state)


def _minilm() -> Recipe:
    config = transformers.BertConfig.from_json_file(file_path("minilm/config.json"))
    config._attn_implementation = "eager"
    module = transformers.BertModel(config)
    weights = load_file(file_path("minilm/model.safetensors"))
    del weights["embeddings.position_ids"]  # 0, 1, 2 ...: no weight in today's class
    module.load_state_dict(weights, strict=True)
    return Recipe(module, _segments, draw=False)


def _vision(name: str, **options: object) -> Recipe:
    config = getattr(transformers, f"{name}Config")(num_labels=1000, **options)
    return Recipe(getattr(transformers, f"{name}ForImageClassification")(config), _logits)


def _lstm() -> Recipe:
    module = torch.nn.LSTM(64, 128, num_layers=2, bidirectional=True, batch_first=True)
    return Recipe(module, lambda lstm, x: lstm(x)[0])


RECIPES: dict[str, Callable[[], Recipe]] = {
    "resnet50": lambda: _vision("ResNet"),
    "mobilenetv2": lambda: _vision("MobileNetV2"),
    "convnext": lambda: _vision("ConvNext"),
    "vit": lambda: _vision("ViT", attn_implementation="eager"),
    "bert": lambda: _bert(12),
    "bert_dynamic": lambda: _bert(4),
    "minilm": _minilm,
    "gpt2_prefill": lambda: _gpt2(12),
    "llama_tiny": _llama,
    "t5_encoder": lambda: Recipe(transformers.T5EncoderModel(transformers.T5Config()), _hidden),
    "whisper_encoder": _whisper,
    "lstm": _lstm,
    "bert_dynamo": lambda: _bert(2, attention="sdpa", dynamo=True),
    "gpt2_dynamo": lambda: _gpt2(2, attention="sdpa", dynamo=True),
}


@torch.no_grad()
def _draw_weights(module: torch.nn.Module) -> None:
    """Draw parameters such that every one of them matters and activations stay near 1."""
    for owner in module.modules():
        transposed = isinstance(owner, transformers.pytorch_utils.Conv1D)
        for name, value in owner.named_parameters(recurse=False):
            if value.dim() > 1 and not isinstance(owner, torch.nn.Embedding):
                fan_in = value.shape[0] if transposed else value[0].numel()
                value.normal_(0, fan_in**-0.5)
            elif "bias" in name and value.dim() == 1:
                value.normal_(0, 0.1)
            elif value.dim() == 1:
                value.normal_(1, 0.1)


@torch.no_grad()
def _calibrate_batch_norms(module: torch.nn.Module, images: torch.Tensor) -> None:
    norms = [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # averages over what it has seen
        module.train()
        module(images)


def _example(model: ExportedModel) -> tuple[torch.Tensor, ...]:
    sizes = {"batch": 2, "sequence": 16, "time": 50}
    inputs = []
    for spec in model.inputs.values():
        shape = [sizes[dim] if isinstance(dim, str) else dim for dim in spec.shape]
        if spec.kind == "ids":
            inputs.append(torch.randint(0, spec.high, shape))
        elif spec.kind == "mask":
            inputs.append(torch.ones(shape, dtype=torch.int64))
        else:
            inputs.append(torch.randn(shape))
    return tuple(inputs)


def export(name: str, path: Path) -> None:
    """Export the model ``name`` to ``path`` and check what came out.

    Raises:
        RuntimeError: The graph or the weights are not those of the table.
    """
    model = ALL[name]
    assert isinstance(model, ExportedModel)
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    recipe = RECIPES[name]()
    if recipe.draw:
        _draw_weights(recipe.module)
    example = _example(model)
    if example[0].dim() == 4:
        _calibrate_batch_norms(recipe.module, torch.randn(4, *example[0].shape[1:]))
    adapter = _Adapter(recipe).eval()
    with torch.no_grad():
        if recipe.dynamo:
            _export_dynamo(model, adapter, example, path)
        else:
            _export_script(model, adapter, example, path)
    _check(model, path)


def _axes(model: ExportedModel) -> dict[str, dict[int, str]]:
    return {
        name: {i: dim for i, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for name, spec in model.inputs.items()
    }


def _export_script(
    model: ExportedModel, adapter: _Adapter, example: tuple[torch.Tensor, ...], path: Path
) -> None:
    axes = _axes(model)
    # All outputs here start with the symbolic dimensions of the first input.
    axes["output"] = next(iter(axes.values()))
    torch.onnx.export(
        adapter,
        example,
        str(path),
        input_names=list(model.inputs),
        output_names=["output"],
        dynamic_axes=axes,
        dynamo=False,
        opset_version=OPSET,
    )


def _export_dynamo(
    model: ExportedModel, adapter: _Adapter, example: tuple[torch.Tensor, ...], path: Path
) -> None:
    dims = {
        name: torch.export.Dim(name) for axes in _axes(model).values() for name in axes.values()
    }
    shapes = tuple({i: dims[name] for i, name in axes.items()} for axes in _axes(model).values())
    torch.onnx.export(
        adapter,
        example,
        str(path),
        input_names=list(model.inputs),
        output_names=["output"],
        dynamic_shapes=(shapes,),
        dynamo=True,
        external_data=False,
    )


def _check(model: ExportedModel, path: Path) -> None:
    graph = onnx.load(path).graph
    weights = sum(
        float(np.abs(array).sum(dtype=np.float64))
        for array in map(onnx.numpy_helper.to_array, graph.initializer)
        if array.dtype.kind == "f" and array.size > 1  # not the -inf of a mask
    )
    found = f"{len(graph.node)} operators, weights summing to {weights:.6g}"
    print(found)
    if len(graph.node) != model.nodes or abs(weights / model.weights - 1) > WEIGHTS_RTOL:
        expected = f"{model.nodes} operators, weights summing to {model.weights:.6g}"
        raise RuntimeError(f"{model.name}: exported {found}; expected {expected}")


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
