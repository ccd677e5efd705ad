"""Trained models on the inputs that they were trained for: they still do their work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from burnish.check import Reference
from burnish.check.metrics import compare_output
from tests.models import file_path, model_path
from tests.models.decisions import magika_bytes
from tests.models.sounds import SAMPLE_RATE, sounds
from tests.models.text import page
from tests.models.wordpiece import WordPiece
from tests.support.compiled_zoo import CompiledZoo

pytestmark = [pytest.mark.models, pytest.mark.slow]

Array = NDArray[np.float32]
ROOT = Path(__file__).parents[2]


def assert_equal(found: Array, expected: Array) -> None:
    """Equal at the tolerance that the table states for whole models."""
    result = compare_output("output", 0, found, expected)
    assert result.passed, result.reason


SENTENCES = [
    "A man is playing the guitar on stage.",
    "Someone performs music with a guitar.",
    "The stock market fell sharply today.",
    "Share prices dropped a lot this afternoon.",
    "How do I bake sourdough bread?",
    "Unbelievably, tokenizers subdivide antidisestablishmentarianism.",
]


def embeddings(hidden: Array, mask: NDArray[np.int64]) -> Array:
    """Mean over the tokens that are there, then unit length."""
    weights = mask[..., None].astype(np.float32)
    mean = (hidden * weights).sum(1) / weights.sum(1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["minilm", "minilm_int8w"])
def test_sentences_are_ranked_alike(name: str, compiled_zoo: CompiledZoo) -> None:
    inputs = WordPiece(file_path("minilm/vocab.txt")).batch(SENTENCES)
    mask = inputs["attention_mask"]
    assert mask.min() == 0, "sentences of different lengths"
    with compiled_zoo.load(name) as compiled:
        found = embeddings(compiled.run(None, inputs)[0], mask)
    wanted = embeddings(Reference(model_path(name)).run(None, inputs)[0], mask)
    similar, expected = found @ found.T, wanted @ wanted.T
    assert_equal(similar, expected)
    pairs = np.triu_indices(len(SENTENCES), 1)
    assert np.array_equal(np.argsort(similar[pairs]), np.argsort(expected[pairs]))
    for a, b in ((0, 1), (2, 3)):  # what means the same is closest to each other
        others = np.delete(similar[a], [a, b])
        assert similar[a, b] > 0.5 > others.max() + 0.2


def test_wordpiece_splits_as_bert_does() -> None:
    tokenizer = WordPiece(file_path("minilm/vocab.txt"))
    # Ids of bert-base-uncased: [CLS] hello , token ##izer ##s ! [SEP]
    assert tokenizer.encode("Hello, tokenizers!") == [101, 7592, 1010, 19204, 17629, 2015, 999, 102]


FILES = {
    "tests/models/store.py": "python",
    "examples/01_compile_and_check/README.md": "markdown",
    "examples/01_compile_and_check/text_direction.onnx": "onnx",
    "pyproject.toml": "toml",
    "LICENSE": "txt",
    ".ci/run": "shell",
    ".github/workflows/ci.yml": "yaml",
    "compiler/runtime/csrc/session.cc": "cpp",
}


def test_files_get_their_labels(compiled_zoo: CompiledZoo) -> None:
    config = json.loads(file_path("magika/config.json").read_text())
    labels = config["target_labels_space"]
    contents = {label: (ROOT / path).read_bytes() for path, label in FILES.items()}
    contents["json"] = json.dumps({"a": [1, 2, {"b": None}], "name": "x"}, indent=2).encode()
    inputs = {"bytes": np.concatenate([magika_bytes(c) for c in contents.values()])}
    with compiled_zoo.load("magika") as compiled:
        (scores,) = compiled.run(None, inputs)
    (expected,) = Reference(model_path("magika")).run(None, inputs)
    assert [labels[i] for i in scores.argmax(axis=1)] == list(contents)
    assert_equal(scores, expected)


def test_dnsmos_tells_sounds_apart(compiled_zoo: CompiledZoo) -> None:
    clips = sounds(144160)
    inputs = {"input_1": np.stack(list(clips.values()))}
    with compiled_zoo.load("dnsmos") as compiled:
        (scores,) = compiled.run(None, inputs)
    (expected,) = Reference(model_path("dnsmos")).run(None, inputs)
    assert_equal(scores, expected)
    overall = dict(zip(clips, scores[:, 2], strict=True))
    assert sorted(overall, key=overall.__getitem__) == ["noise", "tone", "silence", "vowel"]
    assert np.diff(sorted(overall.values())).min() > 0.1


@pytest.mark.parametrize("name", ["silero_sequence", "silero_ifless"])
def test_silero_hears_voice_only(name: str, compiled_zoo: CompiledZoo) -> None:
    model = compiled_zoo.load(name)
    reference = Reference(model_path(name))
    loudest = {}
    for label, clip in sounds(64 * 512 + 64).items():
        # 512 new samples a frame after 64 of the frame before.
        frames = np.stack([clip[i * 512 : i * 512 + 576] for i in range(64)])
        found, expected = (speech(name, runner, frames) for runner in (model, reference))
        assert_equal(found, expected)
        loudest[label] = found.max()
    assert loudest["vowel"] > 0.4
    assert max(loudest[label] for label in ("tone", "noise", "silence")) < 0.1


def speech(name: str, runner: object, frames: Array) -> Array:
    """Probability of speech in each frame, the state carried over."""
    if name == "silero_sequence":
        state = np.zeros((1, 1, 128), np.float32)
        return runner.run(None, {"input": frames, "h": state, "c": state})[0]  # type: ignore[attr-defined, no-any-return]
    state, found = np.zeros((2, 1, 128), np.float32), []
    for frame in frames:
        inputs = {"input": frame[None], "state": state, "sr": np.array(SAMPLE_RATE, np.int64)}
        output, state = runner.run(None, inputs)  # type: ignore[attr-defined]
        found.append(output[0, 0])
    return np.array(found)


def test_upright_and_rotated_text(compiled_zoo: CompiledZoo) -> None:
    upright = [
        page(48, 192, [(12, 4, 3, text)]) for text in ("HELLO WORLD", "TEXT RUNS", "PQRLJ 4721")
    ]
    pictures = np.stack(upright + [picture[:, ::-1, ::-1] for picture in upright])
    with compiled_zoo.load("ppocr_cls") as compiled:
        (scores,) = compiled.run(None, {"x": pictures})
    assert scores.argmax(axis=1).tolist() == [0, 0, 0, 1, 1, 1]
    assert scores.max(axis=1).min() > 0.95


def test_text_is_found_where_it_is(compiled_zoo: CompiledZoo) -> None:
    picture = page(320, 320, [(40, 20, 3, "HELLO WORLD"), (200, 60, 4, "TEXT 7")])
    with compiled_zoo.load("ppocr_det") as compiled:
        (found,) = compiled.run(None, {"x": picture[None]})
    text = found[0, 0] > 0.3
    assert text[44:57, 30:200].mean() > 0.7
    assert text[206:222, 70:180].mean() > 0.7
    assert not text[90:180].any()
    assert not text[260:].any()
