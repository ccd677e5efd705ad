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

MODEL = Path(__file__).with_name("text_direction.onnx")
HEIGHT, WIDTH = 48, 192
WORDS = ["COMPILE", "CHECK", "LIFETIME"]
# A 5x7 font; each byte is a column, its lowest bit on top.
FONT = {
    "C": "3E41414122",
    "E": "7F49494941",
    "F": "7F09090901",
    "H": "7F0808087F",
    "I": "00417F4100",
    "K": "7F08142241",
    "L": "7F40404040",
    "M": "7F021C027F",
    "O": "3E4141413E",
    "P": "7F09090906",
    "T": "03017F0103",
}


def picture(word: str, scale: int = 4) -> NDArray[np.float32]:
    """The word in dark letters on light paper, [3, 48, 192] within ±1."""
    columns = np.frombuffer(bytes.fromhex("00".join(FONT[c] for c in word)), np.uint8)
    letters = (columns >> np.arange(7, dtype=np.uint8)[:, None]) & 1
    ink = np.kron(letters, np.ones((scale, scale)))[:, : WIDTH - 8]
    paper = np.full((HEIGHT, WIDTH), 0.8)
    top = (HEIGHT - ink.shape[0]) // 2
    paper[top : top + ink.shape[0], 4 : 4 + ink.shape[1]] -= 1.5 * ink
    return np.stack([paper, paper, paper]).astype(np.float32)


def main() -> int:
    """Run the example; the exit code is 0 if the compiled model is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=2.0, help="seconds to time each for")
    options = parser.parse_args()

    start = time.perf_counter()
    # The model leaves all sizes open; its pictures are 48x192, as many at a time as one likes.
    shape = {"x": ("n", 3, HEIGHT, WIDTH)}
    model = burnish.compile(MODEL, target="x86", threads=options.threads, input_shapes=shape)
    print(f"compiled {MODEL.name} in {time.perf_counter() - start:.1f} s\n")

    upright = [picture(word) for word in WORDS]
    turned = [image[:, ::-1, ::-1] for image in upright]
    images = np.stack(upright + turned)
    (scores,) = model.run(None, {"x": images})
    for word, up, down in zip(WORDS, scores[: len(WORDS)], scores[len(WORDS) :], strict=True):
        print(f"{word:10} upright: {up[0]:.1%} upright; turned: {down[1]:.1%} upside down")
    print()

    report = burnish.compare(model, MODEL, {"x": images})
    print_comparison(report)
    print_timing(bench(model, MODEL, inputs={"x": images[:1]}, duration=options.duration))
    return 0 if report.passed else 10


if __name__ == "__main__":
    sys.exit(main())
