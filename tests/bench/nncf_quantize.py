"""Quantize a model with NNCF: ``python nncf_quantize.py MODEL SAMPLES OUT.xml [--transformer]``.

Runs in an environment of its own, with ``nncf``, ``openvino`` and ``onnx``: nothing of burnish.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np


def main() -> None:
    """Quantize after training on the samples in a folder of .npz files, at NNCF's defaults."""
    import nncf  # type: ignore[import-not-found]
    import openvino

    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("samples", type=Path)
    parser.add_argument("output")
    parser.add_argument("--transformer", action="store_true")
    options = parser.parse_args()
    samples = [dict(np.load(path)) for path in sorted(options.samples.glob("*.npz"))]
    kind = nncf.ModelType.TRANSFORMER if options.transformer else None
    model = openvino.Core().read_model(options.model)
    made = nncf.quantize(
        model, nncf.Dataset(samples, dict), subset_size=len(samples), model_type=kind
    )
    openvino.save_model(made, options.output)


if __name__ == "__main__":
    main()
