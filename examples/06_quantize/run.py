"""Train a small CNN on handwritten digits, compile it at fp32 and int8, and compare the two.

Run: python examples/06_quantize/run.py [--epochs 8] [--output runs/digits]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import burnish

BATCH = 64
CALIBRATION_SAMPLES = 256
#: Percentage points of accuracy that int8 may lose.
ALLOWED = 0.2


def network() -> nn.Sequential:
    """Three convolutions with batch normalization, then a linear layer over each map's mean."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs, momentum=0.3), nn.ReLU()]

    return nn.Sequential(
        *block(1, 64),
        *block(64, 128),
        nn.MaxPool2d(2),
        *block(128, 128),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def data() -> list[torch.Tensor]:
    """Pictures and labels to train with, and a half of all that is held out."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(pictures).float().reshape(-1, 1, 8, 8) / 16
    split = train_test_split(pictures, torch.from_numpy(labels), test_size=0.5, random_state=0)
    return [split[0], split[2], split[1], split[3]]


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int) -> None:
    """Train on batches in random order, with a falling learning rate."""
    optimizer = torch.optim.Adam(model.parameters())
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 5e-3, epochs=epochs, steps_per_epoch=-(-len(x) // BATCH)
    )
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    model.eval()


def build(model: nn.Module, x: torch.Tensor, precision: str, path: Path) -> burnish.CompileReport:
    """Compile at a precision; int8 measures the ranges of values on pictures of the training."""
    quantization = {}
    if precision == "int8":
        loader = DataLoader(TensorDataset(x), batch_size=BATCH)
        quantization = {
            "calibration_data": loader,
            "calibration_samples": CALIBRATION_SAMPLES // BATCH,
            "bias_correction": True,
        }
    return burnish.compile_to(
        model,
        path,
        precision=precision,
        threads=1,
        example_inputs=x[:BATCH],
        dynamic_shapes=({0: "batch"},),
        overwrite=True,
        **quantization,
    )


def times(models: list[burnish.CompiledModel], x: torch.Tensor, turns: int = 60) -> list[float]:
    """Least time of each model for one batch in turns, in microseconds a picture."""
    batch = x[:BATCH].numpy()
    best = [float("inf")] * len(models)
    for _ in range(turns):
        for index, model in enumerate(models):
            start = time.perf_counter()
            model.run(None, {model.get_inputs()[0].name: batch})
            best[index] = min(best[index], time.perf_counter() - start)
    return [seconds / BATCH * 1e6 for seconds in best]


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of the rows whose largest logit is that of the label."""
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def main() -> int:
    """Run the example; the exit code is 0 if int8 loses no more than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--output", type=Path, help="folder that keeps the artifacts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return compare(options.epochs, options.output or Path(temporary))


def compare(epochs: int, output: Path) -> int:
    """Train, compile twice; print accuracy on the pictures held out, size and time of both."""
    torch.manual_seed(0)
    x, y, held_out, labels = data()
    model = network()
    train(model, x, y, epochs)
    output.mkdir(parents=True, exist_ok=True)
    compiled, sizes = [], []
    for precision in ("fp32", "int8"):
        path = output / f"{precision}.burnish"
        report = build(model, x, precision, path)
        compiled.append(burnish.load(path, threads=1))
        sizes.append((path / "weights.safetensors").stat().st_size)
        for note in report.notes if precision == "int8" else ():
            print(f"note: {note}")
    found = []
    for one in compiled:
        (logits,) = one.run(None, {one.get_inputs()[0].name: held_out.numpy()})
        found.append(accuracy(torch.from_numpy(logits), labels))
    with torch.no_grad():
        print(f"torch: accuracy {accuracy(model(held_out), labels):.2f} %")
    for precision, score, size, spent in zip(
        ("fp32", "int8"), found, sizes, times(compiled, held_out), strict=True
    ):
        print(
            f"{precision}: accuracy {score:.2f} % of {len(labels)} pictures, "
            f"weights {size / 1e3:.0f} kB, {spent:.1f} us a picture"
        )
    lost = found[0] - found[1]
    print(f"int8 loses {lost:.2f} points (at most {ALLOWED} are allowed)")
    return 0 if lost <= ALLOWED else 10


if __name__ == "__main__":
    sys.exit(main())
