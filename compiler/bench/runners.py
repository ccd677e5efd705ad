"""What can be timed: a compiled model and its peers, all called the way their users call them.

Each takes a dictionary of NumPy arrays and returns NumPy arrays, and each uses the same number of
threads for one operator and runs one operator at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from numpy.typing import NDArray

from burnish.errors import ModelError, TargetUnavailableError, UsageError

if TYPE_CHECKING:
    import onnx

    from burnish.runtime import CompiledModel

Feeds = Mapping[str, NDArray[Any]]
Call = Callable[[], object]
Model: TypeAlias = "str | Path | bytes | onnx.ModelProto"


class Runner(Protocol):
    """Something that runs a model."""

    @property
    def name(self) -> str:
        """Short name, unique within one measurement."""

    @property
    def version(self) -> str:
        """Version of the software."""

    @property
    def threads(self) -> int:
        """Threads of one call."""

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""


class BurnishRunner:
    """A compiled model, called ``name`` in reports."""

    def __init__(self, model: CompiledModel, name: str = "burnish") -> None:
        self.model, self.name = model, name
        self.version = model.manifest.tools.get("burnish", "unknown")

    @property
    def threads(self) -> int:
        """Threads of one call."""
        return self.model.threads

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        run, inputs = self.model.run, dict(feeds)
        return lambda: run(None, inputs)


class OnnxRuntimeRunner:
    """onnxruntime's CPU provider at its defaults: all graph optimizations."""

    name = "onnxruntime"

    def __init__(self, model: Model, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.version, self.threads = ort.__version__, threads
        try:
            self._session = ort.InferenceSession(
                _source(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime does not load the model: {error}") from error

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        run, inputs = self._session.run, dict(feeds)
        return lambda: run(None, inputs)


class OpenVinoRunner:
    """OpenVINO's CPU plugin, latency hint, computing in fp32."""

    name = "openvino"

    def __init__(self, model: Model, threads: int) -> None:
        try:
            import openvino
        except ImportError as error:
            raise TargetUnavailableError(
                "OpenVINO is not installed", hint="pip install 'burnish[openvino]'"
            ) from error
        self.version, self.threads = metadata.version("openvino"), threads
        source = _source(model)
        core = openvino.Core()
        loaded = core.read_model(source if isinstance(source, str) else io.BytesIO(source))
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
        }
        self._request = core.compile_model(loaded, "CPU", options).create_infer_request()

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        infer, inputs = self._request.infer, dict(feeds)
        return lambda: infer(inputs, share_inputs=True)


PEERS: dict[str, Callable[[Model, int], Runner]] = {
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVinoRunner,
}
"""What ``burnish bench --against`` knows."""


def peer(name: str, model: Model, threads: int) -> Runner:
    """The peer ``name`` with ``model`` loaded.

    Raises:
        UsageError: There is no such peer.
        TargetUnavailableError: It is not installed.
        ModelError: It does not load the model.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer '{name}'", hint=f"choose from {', '.join(PEERS)}")
    return PEERS[name](model, threads)


def _source(model: Model) -> str | bytes:
    if isinstance(model, (str, Path)):
        return str(model)
    if isinstance(model, bytes):
        return model
    content: bytes = model.SerializeToString()
    return content
