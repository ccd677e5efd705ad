"""Sounds that audio models tell apart: a tone, noise, silence, and something like a voice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
Clip = NDArray[np.float32]

# Centre, width (Hz) and height of the resonances of an open vowel.
_FORMANTS = ((700, 130, 1.0), (1220, 150, 0.5), (2600, 200, 0.25))


def sounds(samples: int) -> dict[str, Clip]:
    """Clips of ``samples`` at 16 kHz, by name."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / SAMPLE_RATE
    clips = {
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "noise": 0.1 * rng.standard_normal(samples),
        "silence": 1e-4 * rng.standard_normal(samples),
        "vowel": 0.1 * voice(time),
    }
    return {name: clip.astype(np.float32) for name, clip in clips.items()}


def voice(time: NDArray[np.float64], pitch: float = 140.0) -> NDArray[np.float64]:
    """Harmonics of a trembling pitch under formants, three syllables a second."""
    vibrato = 0.3 * np.sin(2 * np.pi * 5 * time)
    voice = np.zeros_like(time)
    for n in range(1, 25):
        loudness = sum(
            height * np.exp(-(((pitch * n - centre) / width) ** 2))
            for centre, width, height in _FORMANTS
        )
        voice += loudness * np.sin(2 * np.pi * pitch * n * time + vibrato * n)
    return voice * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time)) ** 2
