"""Loading and running compiled models: what a process that only serves needs.

Imports numpy, and of TVM only its runtime library: not TVM, ONNX or onnxruntime.
"""

from burnish.runtime.library import default_threads
from burnish.runtime.model import CompiledModel, NodeArg, load
from burnish.runtime.session import KernelCall, missing_device

__all__ = ["CompiledModel", "KernelCall", "NodeArg", "default_threads", "load", "missing_device"]
