"""Runs a function in a process that has an emulated CUDA device.

``python -m tests.support.cuda_emulator MODULE:FUNCTION ARGUMENT...``; the environment has to name
the emulated libraries already: :func:`tests.support.cuda_emulator.run.on_device` does it all.
"""

from __future__ import annotations

import importlib
import sys

from burnish.backends import cuda
from burnish.backends.cuda import toolkit
from tests.support.cuda_emulator.build import compile_cuda


def main() -> None:
    """Compile kernels for the emulated device from here on, and call the function."""
    toolkit.compile_cuda = compile_cuda
    vars(cuda)["find_nvcc"] = lambda: None  # which need not be here
    module, function = sys.argv[1].split(":")
    getattr(importlib.import_module(module), function)(*sys.argv[2:])


if __name__ == "__main__":
    main()
