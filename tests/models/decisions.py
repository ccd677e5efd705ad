"""What trained models decide on inputs of the kind they were trained for.

Samples to calibrate with and samples to judge by never share anything but their kind.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.models.feeds import feeds
from tests.models.kept import NOTE, TEXT, marks
from tests.models.registry import ZOO
from tests.models.sounds import SAMPLE_RATE, mel_spectrogram, sounds, voice
from tests.models.store import file_path
from tests.models.text import page
from tests.models.wordpiece import WordPiece

Array = NDArray[Any]
Sample = dict[str, Array]
#: Runs a model once: inputs by name to outputs in their order.
Run = Callable[[Sample], list[Array]]

DATA = Path(__file__).parent / "data"
_KEPT = Path(__file__).with_name("kept.py")
#: Characters that the font of :mod:`tests.models.text` has, but those that look alike upside down.
_LETTERS = list("ABCDEFGJKLMPQRTUVY23457")


@dataclass(frozen=True)
class Task:
    """A trained model, and what is asked of it.

    Attributes:
        samples: Makes samples from a seed and a number of them.
        agree: Gets the outputs of all samples, and those of the original; for every decision of
            the original, whether it is the same.
        judged: Samples that are judged by.
        calibrated: Samples to calibrate with.
        options: How it is quantized to int8, as :func:`burnish.compile` takes it.
        auto: What ``--precision auto`` is told.
        goal: Least share of equal decisions at int8.
    """

    samples: Callable[[int, int], list[Sample]]
    agree: Callable[[list[list[Array]], list[list[Array]]], Array]
    judged: int = 16
    calibrated: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)
    auto: Mapping[str, Any] = field(default_factory=dict)
    goal: float = 0.99


# --- what the models see -------------------------------------------------------------------------


def _lines(seed: int, count: int) -> list[Sample]:
    """Lines of text, every other one upside down."""
    rng = np.random.default_rng(seed)

    def line(index: int) -> Sample:
        text = "".join(rng.choice(_LETTERS, int(rng.integers(6, 10))))
        picture = page(48, 192, [(int(rng.integers(8, 18)), int(rng.integers(2, 12)), 3, text)])
        picture = picture + 0.02 * rng.standard_normal(picture.shape).astype(np.float32)
        return {"x": (picture[:, ::-1, ::-1] if index % 2 else picture)[None].copy()}

    return [line(index) for index in range(count)]


def _pages(seed: int, count: int) -> list[Sample]:
    model = ZOO["ppocr_det"]
    size = {"batch": 1, "height": 320, "width": 320}
    return [feeds(model, size, seed=1000 * seed + i) for i in range(count)]


def _pixels(seed: int, count: int) -> list[Sample]:
    return [feeds(ZOO["opennsfw"], seed=1000 * seed + i) for i in range(count)]


def _clips(seed: int, count: int, length: int) -> list[Array]:
    """Voices in noise, and sounds that are none."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / SAMPLE_RATE
    others = sounds(length)
    clips = []
    for index in range(count):
        noise = rng.standard_normal(length) * 10 ** rng.uniform(-3.5, -1)
        if index % 4 == 3:
            clip = noise + rng.uniform(0.2, 1) * others[("tone", "noise", "silence")[index % 3]]
        else:
            # Somebody who speaks, and stops for a while.
            gate = np.repeat(rng.random(-(-length // 8000)) < 0.7, 8000)[:length]
            clip = noise + rng.uniform(0.05, 0.2) * voice(time, float(rng.uniform(90, 240))) * gate
        clips.append(clip.astype(np.float32))
    return clips


def _speech(seed: int, count: int) -> list[Sample]:
    return [{"input_1": clip[None]} for clip in _clips(seed, count, 144160)]


def _calls(seed: int, count: int) -> list[Sample]:
    """Somebody who speaks while another is heard, whose echo a program takes out more or less."""
    rng = np.random.default_rng(seed)
    length = 4 * SAMPLE_RATE
    time = np.arange(length) / SAMPLE_RATE

    def gate(every: int, share: float) -> Array:
        return np.repeat(rng.random(-(-length // every)) < share, every)[:length]

    def talk() -> Array:
        speech = voice(time, float(rng.uniform(90, 240)))
        return rng.uniform(0.05, 0.3) * speech * gate(8000, 0.6)

    def call() -> Array:
        near, far = talk(), talk()
        echo = rng.uniform(0.2, 0.8) * np.roll(far, int(rng.integers(200, 2000)))
        noise = rng.standard_normal(length) * 10 ** rng.uniform(-4, -2.5)
        # What takes out the echo takes words with it.
        heard = np.where(gate(4000, rng.uniform(0, 0.8)), rng.uniform(0, 1), 1)
        cleaned = near * heard + rng.uniform(0, 1) ** 2 * echo + noise
        return np.stack([mel_spectrogram(c) for c in (far, near + echo + noise, cleaned)])

    state = np.zeros((4, 1, 64), np.float32)
    return [{"input": call()[None], "h0": state} for _ in range(count)]


def _frames(seed: int, count: int) -> list[Sample]:
    """64 frames of 512 new samples after 64 of the frame before."""
    state = np.zeros((1, 1, 128), np.float32)
    return [
        {
            "input": np.stack([clip[i * 512 : i * 512 + 576] for i in range(64)]),
            "h": state,
            "c": state,
        }
        for clip in _clips(seed, count, 64 * 512 + 64)
    ]


def _chords(seed: int, count: int) -> list[Sample]:
    """Two seconds of notes of the piano, of which several sound at once."""
    rng = np.random.default_rng(seed)
    time = np.arange(43844) / 22050

    def music() -> Array:
        clip = 0.003 * rng.standard_normal(len(time))
        for _ in range(6):
            start, pitch = rng.uniform(0, 1.5), 440 * 2 ** (rng.integers(-24, 24) / 12)
            since = np.maximum(time - start, 0)
            loudness = np.where(time > start, np.exp(-2 * since) * (1 - np.exp(-200 * since)), 0)
            for n in range(1, 7):
                clip += 0.15 / n * loudness * np.sin(2 * np.pi * n * pitch * since)
        return clip.astype(np.float32)

    return [{"serving_default_input_2:0": music()[None, :, None]} for _ in range(count)]


def magika_bytes(content: bytes) -> NDArray[np.int32]:
    """The first and the last 1024 bytes without outer white space, padded with 256."""
    head = content[:4096].lstrip() if len(content) > 4096 else content.strip()
    tail = content[-4096:].rstrip() if len(content) > 4096 else content.strip()
    first, last = list(head[:1024]), list(tail[-1024:])
    padded = first + [256] * (2048 - len(first) - len(last)) + last
    return np.array([padded], np.int32)


def _files(seed: int, count: int) -> list[Sample]:
    """Files of Python's own library, of all kinds there are."""
    root = Path(sysconfig.get_path("stdlib"))
    by_kind: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.stat().st_size > 256 and path.suffix != ".pyc":
            by_kind.setdefault(path.suffix, []).append(path)
    rng = np.random.default_rng(0)
    kinds = [list(rng.permutation(np.array(p, object))) for _, p in sorted(by_kind.items())]
    # One of each kind in turn; even places are to calibrate with, odd ones to judge by.
    turns = [paths[i] for i in range(max(map(len, kinds))) for paths in kinds if i < len(paths)]
    return [{"bytes": magika_bytes(p.read_bytes())} for p in turns[seed % 2 :: 2][:count]]


# --- what they decide ----------------------------------------------------------------------------


def _label(found: list[list[Array]], wanted: list[list[Array]]) -> Array:
    """The largest of the scores of each sample."""
    pairs = zip(found, wanted, strict=True)
    return np.concatenate([f[0].argmax(axis=1) == w[0].argmax(axis=1) for f, w in pairs])


def _voice(found: list[list[Array]], wanted: list[list[Array]]) -> Array:
    """Whether a frame is speech, of those frames of which the original is not in doubt."""
    now, before = (np.concatenate([a[0].ravel() for a in o]) for o in (found, wanted))
    same: Array = (now > 0.5) == (before > 0.5)
    return same[np.abs(before - 0.5) > 0.1]


def _marked(threshold: float) -> Callable[[list[list[Array]], list[list[Array]]], Array]:
    """Of the numbers that lie above a threshold in either, whether they do in both."""

    def agree(found: list[list[Array]], wanted: list[list[Array]]) -> Array:
        pairs = zip(found, wanted, strict=True)
        return np.concatenate([marks(f[0], w[0], threshold) for f, w in pairs])

    return agree


def _order(*ratings: tuple[int, ...]) -> Callable[[list[list[Array]], list[list[Array]]], Array]:
    """Of every two samples whose ratings differ by a tenth or more, which one is rated higher.

    Args:
        ratings: Where in the first output each rating is.
    """

    def agree(found: list[list[Array]], wanted: list[list[Array]]) -> Array:
        same: list[Array] = []
        for at in ratings:
            now, before = (np.array([arrays[0][at] for arrays in o]) for o in (found, wanted))
            first, second = np.triu_indices(len(before), 1)
            apart = np.abs(before[first] - before[second]) >= 0.1
            same.append(((now[first] > now[second]) == (before[first] > before[second]))[apart])
        return np.concatenate(same)

    return agree


TASKS: dict[str, Task] = {
    "magika": Task(
        _files,
        _label,
        judged=200,
        calibrated=100,
        options={"calibration_method": "mse"},
        # Scores of a file of which the model is not sure are near each other.
        auto={"max_drop": 1e-3},
    ),
    "ppocr_cls": Task(_lines, _label, judged=200, calibrated=32),
    # Pixels at the edge of a letter are neither text nor none.
    "ppocr_det": Task(
        _pages,
        _marked(TEXT),
        judged=8,
        calibrated=8,
        auto={"metric": f"{_KEPT}:text"},
        goal=0.97,
    ),
    "opennsfw": Task(_pixels, _label),
    "silero_sequence": Task(
        _frames,
        _voice,
        judged=24,
        options={"calibration_method": "mse", "bias_correction": True},
    ),
    # The spectrum has a range of millions, and its logarithm is taken.
    "dnsmos": Task(
        _speech,
        _order((0, -1)),
        judged=12,
        calibrated=12,
        options={"nodes_to_exclude": ["stft-.*"]},
        # Ratings are about 3: a twentieth in each of two cannot turn their order around.
        auto={"atol": 0.015},
    ),
    # How little echo is left, and how little else was lost.
    "aecmos": Task(_calls, _order((0,), (1,))),
    # As above: the first convolutions are the spectrum.
    "basic_pitch": Task(
        _chords,
        _marked(NOTE),
        judged=12,
        calibrated=32,
        options={"nodes_to_exclude": [".*cq_t2010v2.*"]},
        # A note or two are at the edge in each clip.
        auto={"metric": f"{_KEPT}:notes", "max_drop": 0.008},
        goal=0.97,
    ),
}
"""Trained models by name, and what each decides."""


# --- sentences -----------------------------------------------------------------------------------


def sentence_pairs() -> list[tuple[str, str]]:
    """Pairs of English sentences: of one meaning, of one topic, and of nothing in common."""
    lines = (DATA / "sentence_pairs.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("\t") for line in lines]
    return [(a, b) for a, b in pairs]


def sentences() -> list[Sample]:
    """Inputs of MiniLM to calibrate with: sentences that no pair has."""
    tokens = WordPiece(file_path("minilm/vocab.txt"))
    lines = (DATA / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [tokens.batch([line]) for line in lines]


def similarities(run: Run) -> Array:
    """Cosine similarity of the two sentences of every pair."""
    tokens = WordPiece(file_path("minilm/vocab.txt"))

    def embedding(sentence: str) -> Array:
        inputs = tokens.batch([sentence])
        mean: Array = run(inputs)[0][0].mean(axis=0)
        return mean / np.linalg.norm(mean)

    return np.array([embedding(a) @ embedding(b) for a, b in sentence_pairs()])


MINILM = {
    "smooth_quant": "auto",
    "bias_correction": True,
    "nodes_to_exclude": [r".*layer\.\d/output/dense/MatMul", r".*intermediate/dense/MatMul"],
}
"""How MiniLM is quantized: attention's products. Those of the feed-forward layers write and read a
channel that is a hundred times as large as the others; with them in int8, one pair of a hundred
changes by more than 0.01."""

MINILM_AUTO = {"smooth_quant": "auto", "metric": f"{_KEPT}:sentence", "max_drop": 1e-3}
"""What ``--precision auto`` is told about MiniLM: vectors of two sentences turn little."""
