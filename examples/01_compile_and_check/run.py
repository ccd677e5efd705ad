"""Compile a trained network, compare it with onnxruntime, time both."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import burnish
from burnish.bench import bench
from burnish.report.comparison import print_comparison
from burnish.report.timing import print_timing

MODEL = Path(__file__).with_name("basic_pitch.onnx")
SAMPLE_RATE, SAMPLES = 22050, 43844
MELODY = {"C4": 60, "E4": 64, "G4": 67, "C5": 72}


def play(notes: dict[str, int]) -> NDArray[np.float32]:
    """The notes one after the other, each a few decaying harmonics: [1, SAMPLES, 1]."""
    time_of_note = np.arange(SAMPLES // len(notes)) / SAMPLE_RATE
    sound = []
    for key in notes.values():
        frequency = 440 * 2 ** ((key - 69) / 12)
        harmonics = [0.5**n * np.sin(2 * np.pi * n * frequency * time_of_note) for n in range(1, 5)]
        sound.append(np.sum(harmonics, axis=0) * np.exp(-3 * time_of_note))
    audio = np.concatenate(sound)
    return np.pad(audio, (0, SAMPLES - audio.size)).reshape(1, SAMPLES, 1).astype(np.float32)


def heard(activity: NDArray[np.float32], notes: dict[str, int]) -> list[int]:
    """The MIDI key that is loudest while each note is played; [frames, 88] activities."""
    middle = (np.arange(len(notes)) + 0.5) / len(notes) * activity.shape[0]
    return [21 + int(activity[int(frame)].argmax()) for frame in middle]


def main() -> int:
    """Run the example; the exit code is 0 if the compiled model is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=2.0, help="seconds to time each for")
    options = parser.parse_args()

    start = time.perf_counter()
    model = burnish.compile(MODEL, target="x86", threads=options.threads)
    print(f"compiled {MODEL.name} in {time.perf_counter() - start:.1f} s\n")

    inputs = {model.get_inputs()[0].name: play(MELODY)}
    # The outputs are note activity, onsets and pitch contour; the model's names say nothing.
    activity = model.run(None, inputs)[1]
    print(f"played {list(MELODY.values())}, heard {heard(activity[0], MELODY)}\n")

    report = burnish.compare(model, MODEL, inputs)
    print_comparison(report)
    print_timing(bench(model, MODEL, inputs=inputs, duration=options.duration))
    return 0 if report.passed and heard(activity[0], MELODY) == list(MELODY.values()) else 10


if __name__ == "__main__":
    sys.exit(main())
