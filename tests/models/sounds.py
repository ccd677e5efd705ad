"""Sounds that audio models tell apart: a tone, noise, silence, and something like a voice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
#: Samples of a window of :func:`mel_spectrogram`, from one window to the next, and its bands.
_WINDOW, _HOP, _BANDS = 513, 256, 160
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


def mel_spectrogram(clip: NDArray[np.float64]) -> Clip:
    """Loudness of 160 mel bands as models of speechmos take it, [frames, 160] in [-1, 1].

    As librosa computes it (Slaney's mels and areas), in decibels below the loudest: (dB + 40) / 40.
    """
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(clip, _WINDOW // 2), _WINDOW)[::_HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW + 1)[:-1])) ** 2
    mels = np.linspace(0, 15 + 27 * np.log(SAMPLE_RATE / 2000) / np.log(6.4), _BANDS + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * 6.4 ** ((mels - 15) / 27))[:, None]
    frequencies = np.fft.rfftfreq(_WINDOW, 1 / SAMPLE_RATE)
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    filters = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    bands = np.maximum(power @ filters.T, 1e-10)
    decibels = np.maximum(10 * np.log10(bands / bands.max()), -80)
    return ((decibels + 40) / 40).astype(np.float32)
