"""Tiny networks of common architectures, drawn anew and exported by torch.

Needs torch, transformers and onnxscript. No file is kept: a network takes a second to export.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import transformers
from torch import nn

Exporter = Literal["torchscript", "dynamo"]

VOCABULARY = 100
#: Sizes of symbolic dims at export; what the exported graph takes for granted shows at others.
EXAMPLE = {"batch": 2, "sequence": 12, "target": 7, "samples": 800}
#: Of a small transformer.
_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@dataclass(frozen=True)
class Architecture:
    """A network and how it is called.

    Attributes:
        build: Makes the module.
        call: From the module and the inputs to the one output.
        inputs: Dims by input name; names that begin with ``ids`` are tokens, with ``mask`` masks.
    """

    build: Callable[[], nn.Module]
    call: Callable[..., torch.Tensor]
    inputs: Mapping[str, tuple[int | str, ...]]

    def feeds(self, sizes: Mapping[str, int], seed: int) -> dict[str, np.ndarray]:
        """Random inputs for sizes of the symbolic dims; masks hide the end of the first row."""
        rng = np.random.default_rng(seed)
        feeds: dict[str, np.ndarray] = {}
        for name, dims in self.inputs.items():
            shape = [sizes[d] if isinstance(d, str) else d for d in dims]
            if name.startswith("mask"):
                feeds[name] = np.ones(shape, np.int64)
                feeds[name][0, shape[1] - shape[1] // 4 :] = 0
            elif name.startswith("ids"):
                feeds[name] = rng.integers(3, VOCABULARY, shape)
            else:
                feeds[name] = rng.standard_normal(shape, np.float32)
        return feeds

    def export(self, exporter: Exporter) -> bytes:
        """The network as a serialized ModelProto."""
        torch.manual_seed(0)
        # The fused layers of torch.nn.Transformer have no ONNX form.
        torch.backends.mha.set_fastpath_enabled(False)
        module = self.build().eval()
        _draw_weights(module)
        adapter = _Adapter(module, self.call).eval()
        example = tuple(map(torch.from_numpy, self.feeds(EXAMPLE, 0).values()))
        names: dict[str, Any] = {"input_names": list(self.inputs), "output_names": ["output"]}
        axes = {
            name: {i: d for i, d in enumerate(dims) if isinstance(d, str)}
            for name, dims in self.inputs.items()
        }
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if exporter == "dynamo":
                dims = {d: torch.export.Dim(d) for d in EXAMPLE}
                shapes = tuple({i: dims[d] for i, d in a.items()} for a in axes.values())
                program = torch.onnx.export(
                    adapter, example, dynamo=True, dynamic_shapes=(shapes,), verbose=False, **names
                )
                assert program is not None
                return bytes(program.model_proto.SerializeToString())
            file = io.BytesIO()
            torch.onnx.export(
                adapter,
                example,
                file,
                dynamo=False,
                opset_version=17,
                dynamic_axes={n: a for n, a in axes.items() if a},
                **names,
            )
            return file.getvalue()


class _Adapter(nn.Module):
    """Positional inputs and one output around a module."""

    def __init__(self, module: nn.Module, call: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.call(self.module, *inputs)


@torch.no_grad()
def _draw_weights(module: nn.Module) -> None:
    """Biases are zero and norm gains one in a fresh network: mistakes in them would not show."""
    for name, value in module.named_parameters():
        if value.dim() < 2:
            value.add_(torch.randn_like(value), alpha=0.1)
        elif "embed" not in name:
            value.normal_(0, value[0].numel() ** -0.5)


def _first(module: Any, x: torch.Tensor) -> torch.Tensor:
    return module(x)[0]


def _plain(module: Any, *inputs: torch.Tensor) -> torch.Tensor:
    return module(*inputs)


def _encode(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask)[0]


def _prefill(module: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask, use_cache=False).logits


def _translate(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask, decoder_input_ids=target, use_cache=False)[0]


def _match(module: Any, ids: torch.Tensor, mask: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return module(input_ids=ids, attention_mask=mask, pixel_values=image).logits_per_image


class UNet(nn.Module):
    """Two levels; a transposed convolution and an interpolation on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = self._block(3, 8), self._block(8, 16)
        self.middle = self._block(16, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, 2)
        self.up1, self.up2 = self._block(32, 8), self._block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, 2, H, W]."""
        pool, scale = nn.functional.max_pool2d, nn.functional.interpolate
        a = self.down1(x)
        b = self.down2(pool(a, 2))
        y = self.up1(torch.cat([self.up(self.middle(pool(b, 2))), b], 1))
        y = scale(y, scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(self.up2(torch.cat([y, a], 1)))


class SmallCnn(nn.Module):
    """The layers of image classifiers: a strided stem, depthwise and pointwise ones, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 12, 7, 2, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.pointwise = nn.Conv2d(12, 20, 1)
        self.conv = nn.Conv2d(20, 20, 3, padding=1)
        self.head = nn.Linear(20, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] to [N, 7]."""
        x = nn.functional.hardswish(self.pointwise(self.depthwise(self.stem(x))))
        x = nn.functional.relu(self.conv(x) + x)
        return torch.softmax(self.head(x.mean((2, 3))), 1)


class Recurrent(nn.Module):
    """Tokens through two bidirectional recurrent layers to classes."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.layer = layer(16, 24, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(48, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """[batch, sequence] to [batch, 5]."""
        return self.head(self.layer(self.embed(ids))[0][:, -1])


class Seq2Seq(nn.Module):
    """torch.nn.Transformer with a causal decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """[batch, sequence, 32] and [batch, target, 32] to [batch, target, 32]."""
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.inner(source, target, tgt_mask=mask)


def _text(kind: str, call: Callable[..., torch.Tensor] = _encode, **more: Any) -> Architecture:
    """A model of transformers that takes tokens."""

    def build() -> nn.Module:
        config = getattr(transformers, kind.partition("For")[0].removesuffix("Model") + "Config")
        sizes = {"vocab_size": VOCABULARY, "pad_token_id": 0, **_SMALL, **more}
        return getattr(transformers, kind)(config(**sizes))

    return Architecture(build, call, {"ids": ("batch", "sequence"), "mask": ("batch", "sequence")})


def _image(
    kind: str, size: int, call: Callable[..., torch.Tensor] = _first, **more: Any
) -> Architecture:
    """A model of transformers that takes images."""

    def build() -> nn.Module:
        config = getattr(transformers, kind.partition("For")[0].removesuffix("Model") + "Config")
        return getattr(transformers, kind)(config(**more))

    return Architecture(build, call, {"image": ("batch", 3, size, size)})


def _t5() -> nn.Module:
    config = transformers.T5Config(
        vocab_size=VOCABULARY,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(config)


def _bart() -> nn.Module:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
    )
    return transformers.BartModel(config)


def _clip() -> nn.Module:
    text = {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **_SMALL,
    }
    vision = {"image_size": 32, "patch_size": 8, **_SMALL}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    )


def _wav2vec2() -> nn.Module:
    config = transformers.Wav2Vec2Config(
        vocab_size=20,
        conv_dim=[16, 16],
        conv_stride=[5, 2],
        conv_kernel=[10, 3],
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        **_SMALL,
    )
    return transformers.Wav2Vec2ForCTC(config)


_PAIR: dict[str, tuple[int | str, ...]] = {
    "ids": ("batch", "sequence"),
    "mask": ("batch", "sequence"),
    "ids_target": ("batch", "target"),
}

ARCHITECTURES: dict[str, Architecture] = {
    "bert": _text("BertModel"),
    "roberta": _text("RobertaModel", attn_implementation="eager"),
    "albert": _text("AlbertModel", embedding_size=16),
    "deberta-v2": _text(
        "DebertaV2Model",
        relative_attention=True,
        position_buckets=8,
        max_relative_positions=16,
        pos_att_type=["c2p", "p2c"],
        share_att_key=True,
        norm_rel_ebd="layer_norm",
    ),
    "modernbert": _text(
        "ModernBertModel",
        local_attention=6,
        global_attn_every_n_layers=2,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
    ),
    "mistral": _text("MistralForCausalLM", _prefill, num_key_value_heads=2, sliding_window=6),
    "gemma2": _text(
        "Gemma2ForCausalLM", _prefill, num_key_value_heads=2, head_dim=8, sliding_window=6
    ),
    "t5": Architecture(_t5, _translate, _PAIR),
    "bart": Architecture(_bart, _translate, _PAIR),
    "clip": Architecture(
        _clip,
        _match,
        {
            "ids": ("batch", "sequence"),
            "mask": ("batch", "sequence"),
            "image": ("batch", 3, 32, 32),
        },
    ),
    "swin": _image(
        "SwinModel",
        32,
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    "segformer": _image(
        "SegformerForSemanticSegmentation",
        64,
        hidden_sizes=[16, 16, 32, 32],
        decoder_hidden_size=16,
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 4, 4],
    ),
    "wav2vec2": Architecture(_wav2vec2, _first, {"sound": ("batch", "samples")}),
    "cnn": Architecture(SmallCnn, _plain, {"image": ("batch", 3, 33, 33)}),
    "unet": Architecture(UNet, _plain, {"image": ("batch", 3, 32, 32)}),
    "lstm": Architecture(lambda: Recurrent(nn.LSTM), _plain, {"ids": ("batch", "sequence")}),
    "gru": Architecture(lambda: Recurrent(nn.GRU), _plain, {"ids": ("batch", "sequence")}),
    "nn-transformer": Architecture(
        Seq2Seq,
        _plain,
        # The exporter writes both lengths into the graph.
        {"source": ("batch", 10, 32), "target": ("batch", 7, 32)},
    ),
}
