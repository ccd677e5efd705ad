"""The commented ``burnish.toml`` that ``burnish check --init`` writes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from burnish.check import input_ranges

_TEXT = """\
# What `burnish check` checks. Paths are relative to this file. Keys that are commented out show
# other possibilities; the command line (burnish check --help) overrides what stands here.

[check]
# baseline = "baseline"      # folder of artifacts that ratios to "baseline" are about;
                             # `burnish check --update-baseline` stores what passes there
inconclusive = "pass"        # or "fail": a ratio of times that the noise left undecided
unrunnable = "fail"          # or "skip": checks of artifacts that are for another CPU

[measure]                    # how ratios of times are measured
confidence = 0.999           # of every "passed" and every "failed"
time-budget = 60             # seconds after which an undecided ratio is inconclusive
repeats = 12                 # blocks, with both programs loaded anew, before the first decision
statistic = "median"         # or "min": the call that stands for a few milliseconds of calls

[defaults]                   # for all models; each may have its own
targets = ["x86"]
precisions = ["fp32"]
threads = 1
# opt-level = 3
# skip-passes = []
# For int8, bf16, fp16 and auto; fp32 has no use for any of these.
# calibration-data = "samples"   # samples to measure on: .npz, a folder, script.py:function
# calibration-samples = 100
# strict = true                  # a product in a higher precision is an error (exit 13)
# quantization = {{ calibration-method = "entropy", nodes-to-exclude = ["head.*"] }}
# budget = {{ max-drop = 0.01, metric = "cosine", max-evals = 32 }}   # of auto

[[model]]
name = {name}
path = {path}
# input-shapes = [{shape}]
# Samples: .npz files (patterns too), functions that yield dictionaries of arrays, random inputs.
inputs = [{{ samples = 3, seed = 0 }}]
# inputs = ["samples/*.npz", "inputs.py:samples", {{ samples = 1, shapes = [{shape}] }}]

# Errors against onnxruntime on the unmodified model, in every sample. Without any limit, the table
# of tolerances holds; `burnish compare` shows it.
[model.accuracy]
# atol = 1e-3                # per element, in units of the output's root mean square ...
# rtol = 1e-4                # ... plus this, relative to the element
# max-abs = 0.01             # also max-mean-abs, max-rel, max-rms
# min-cosine = 0.9999
# min-psnr = 60              # dB
# min-top1 = 0.99            # share of rows with the largest element at the same place
# outputs.{output} = {{ max-abs = 0.01 }}   # other limits for one output

[model.latency]              # time in units of a peer's, measured in turns
max-ratio = {{ onnxruntime = 1.0 }}   # also openvino, baseline

[model.size]
max-bytes = {size}           # of the artifact: bytes, KB, MB, GB, KiB, MiB, GiB
# max-ratio = 1.05           # in units of the baseline's

[model.memory]               # peak of resident memory
# max-compile = "4 GB"       # of the compiler
# max-run = "500 MB"         # of a process that loads and runs the artifact, Python included

[model.placement]            # what the artifact attests
# min-share = {{ fp32 = 1.0 }}   # least share of the kernels that compute in a precision
# min-storage = {{ fp16 = 0.9 }} # least share of the kernels that store their results in it
# min-operations = {{ int8 = 0.9 }}   # least share of the operations of convolutions and products
devices = ["cpu"]
# forbid-notes = ["as plain operators"]   # notes of the compiler; "*" forbids any

# Other demands for some of the targets or precisions; any key of a model may stand here.
# [[model.when]]
# precisions = ["fp32"]
# accuracy.atol = 1e-5
"""


def config_text(model: Path, folder: Path) -> str:
    """A configuration for one model, with its own names in the examples.

    Args:
        model: The ONNX file.
        folder: The folder of the configuration.

    Raises:
        InputFileError: The file is missing.
        ModelError: It is no ONNX model.
    """
    inputs, outputs = input_ranges(model), _outputs(model)
    size = 1 + 2 * round(model.stat().st_size / 1e6)
    shape = "x:1x3x224x224"
    if inputs:
        dims = (str(dim) if isinstance(dim, int) else "1" for dim in inputs[0].shape)
        shape = f"{inputs[0].name}:{'x'.join(dims)}"
    return _TEXT.format(
        name=json.dumps(model.stem),
        path=json.dumps(os.path.relpath(model, folder)),
        shape=json.dumps(shape),
        output=json.dumps(outputs[0] if outputs else "y"),
        size=json.dumps(f"{size} MB"),
    )


def _outputs(model: Path) -> Sequence[str]:
    import onnx

    return [output.name for output in onnx.load(model, load_external_data=False).graph.output]
