"""Train a small CNN on handwritten digits, and compile it at the end of every epoch.

Run: python examples/04_training/run.py [--epochs 4] [--output runs/digits]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import burnish
from burnish.integrations import compile_checkpoint

BATCH = 64


class Digits(nn.Module):
    """Two convolutions with batch normalization, then a linear layer over the mean of each map."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32, momentum=0.3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64, momentum=0.3),
            nn.ReLU(),
            nn.Dropout(0.2),
        )
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image).mean((2, 3)))


def data() -> list[torch.Tensor]:
    """Pictures and labels to train with, and a quarter of all that is held out."""
    pictures, labels = load_digits(return_X_y=True)
    pictures = torch.from_numpy(pictures).float().reshape(-1, 1, 8, 8) / 16
    split = train_test_split(pictures, torch.from_numpy(labels), test_size=0.25, random_state=0)
    return [split[0], split[2], split[1], split[3]]


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor
) -> float:
    """One pass over the data in random order; returns the mean loss."""
    model.train()
    losses = []
    for rows in torch.randperm(len(x)).split(BATCH):
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses) / len(losses)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Percent of the rows whose largest logit is that of the label."""
    return 100 * (logits.argmax(1) == labels).float().mean().item()


def main() -> int:
    """Run the example; the exit code is 0 if every epoch's network was compiled and is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--output", type=Path, help="folder that keeps the artifacts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return train(options.epochs, options.output or Path(temporary))


def train(epochs: int, output: Path) -> int:
    """Train; print the accuracy on the pictures held out, and the time, of both forms."""
    torch.manual_seed(0)
    x, y, held_out, labels = data()
    model = Digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    output.mkdir(parents=True, exist_ok=True)
    passed = True
    for epoch in range(1, epochs + 1):
        loss = train_epoch(model, optimizer, x, y)
        result = compile_checkpoint(
            model,
            output / f"epoch-{epoch}.burnish",
            example_inputs=held_out[:BATCH],
            dynamic_shapes={"image": {0: "batch"}},
            threads=1,
        )
        if not result:
            print(f"epoch {epoch}: loss {loss:.3f}, not compiled: {result.error}")
            passed = False
            continue
        with burnish.load(result.path, threads=1) as compiled:
            found = accuracy(compiled(image=held_out)["output"], labels)
        model.eval()
        with torch.no_grad():
            expected = accuracy(model(held_out), labels)
        metrics = result.metrics
        print(
            f"epoch {epoch}: loss {loss:.3f}, accuracy torch {expected:.2f} %, "
            f"burnish {found:.2f} %, max error {metrics['max_abs_err']:.1e}, "
            f"per sample torch {metrics['torch_latency_ms'] / BATCH * 1e3:.2f} us, "
            f"burnish {metrics['latency_ms'] / BATCH * 1e3:.2f} us"
        )
        passed &= found == expected
    return 0 if passed else 10


if __name__ == "__main__":
    sys.exit(main())
