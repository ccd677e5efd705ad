"""The reference of all comparisons: the unmodified model on onnxruntime, nothing optimized."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from burnish.errors import InputFileError, InvalidInputError, ModelError

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Model: TypeAlias = str | Path | bytes | onnx.ModelProto

_PROTO_LIMIT = 2**31 - 1


class Reference:
    """A model on onnxruntime's CPU provider with ``ORT_DISABLE_ALL``.

    Args:
        model: An ``.onnx`` file, beside its external data, or a ModelProto, also a serialised one.
        threads: Threads of one operator; None leaves the choice to onnxruntime.
        prepack: Let onnxruntime reorder constant operands; False makes it compute the same bits
            for a constant as for a value that is computed.

    Raises:
        InputFileError: The file is missing.
        ModelError: onnxruntime does not load the model.
    """

    def __init__(self, model: Model, *, threads: int | None = None, prepack: bool = True) -> None:
        # Half a second to import, and only comparisons need it.
        import onnxruntime as ort

        self._folder: tempfile.TemporaryDirectory[str] | None = None
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # what is wrong arrives as an exception
        if not prepack:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        self.description = f"onnxruntime {ort.__version__}, CPU, no optimizations"
        source = self._source(model)
        try:
            self._session = self._open(source, options)
        except ModelError as error:
            if not isinstance(error.__cause__, ort.capi.onnxruntime_pybind11_state.NotImplemented):
                raise
            widened = self._widened(source)
            if widened is None:
                raise
            self._session = self._open(widened, options)
            self.description += ", bfloat16 computed in float32"

    def _open(self, source: str | bytes, options: Any) -> Any:
        import onnxruntime as ort

        try:
            return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(
                f"onnxruntime does not load the model: {_first_line(error)}",
                at=source if isinstance(source, str) else "the given model",
                hint="check it with onnx.checker.check_model(path, full_check=True)",
            ) from error

    def _widened(self, source: str | bytes) -> str | None:
        """A copy that computes bfloat16 in float32, each result rounded; None if there is none.

        onnxruntime's CPU provider has no kernels that compute on bfloat16.
        """
        from burnish.export import save
        from burnish.importers.onnx_model import load

        graph = load(onnx.load_from_string(source) if isinstance(source, bytes) else source)
        if not any(
            v is not None and v.type is not None and v.dtype == "bfloat16"
            for node in graph.walk()
            for v in (*node.inputs, *node.outputs)
        ):
            return None
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="burnish-reference-")
        path = Path(self._folder.name) / "widened.onnx"
        save(graph, path, widened=True)
        return str(path)

    def _source(self, model: Model) -> str | bytes:
        if isinstance(model, (str, Path)):
            if not Path(model).is_file():
                raise InputFileError("the model file does not exist", at=str(model))
            return str(model)
        if isinstance(model, bytes):
            return model
        if model.ByteSize() < _PROTO_LIMIT:
            content: bytes = model.SerializeToString()
            return content
        self._folder = tempfile.TemporaryDirectory(prefix="burnish-reference-")
        path = Path(self._folder.name) / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="model.onnx.data")
        return str(path)

    def get_inputs(self) -> Sequence[Any]:
        """Name, type and shape of each input, as onnxruntime gives them."""
        inputs: Sequence[Any] = self._session.get_inputs()
        return inputs

    def get_outputs(self) -> Sequence[Any]:
        """Name, type and shape of each output, as onnxruntime gives them."""
        outputs: Sequence[Any] = self._session.get_outputs()
        return outputs

    def run(self, output_names: Sequence[str] | None, feeds: Feeds) -> list[Any]:
        """As ``onnxruntime.InferenceSession.run``.

        Raises:
            InvalidInputError: onnxruntime rejects the inputs, or fails on them.
        """
        try:
            outputs = self._session.run(output_names, dict(feeds))
        except Exception as error:
            raise InvalidInputError(
                f"onnxruntime fails on these inputs: {_first_line(error)}",
                hint="give inputs that the model accepts with --inputs, "
                "or fix its symbolic dimensions with --input-shapes",
            ) from error
        return list(outputs)

    def close(self) -> None:
        """Free the session and temporary copies of the model."""
        del self._session
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> Reference:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()


def load_inputs(path: str | Path) -> dict[str, Array]:
    """Inputs by name from an ``.npz`` file.

    Raises:
        InputFileError: The file is missing, damaged, empty or holds pickled objects.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array without a name")
        with archive:
            feeds = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise InputFileError("the inputs file does not exist", at=str(path)) from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputFileError(
            f"the inputs cannot be read: {_first_line(error)}",
            at=str(path),
            hint="write them with numpy.savez(path, **{name: array})",
        ) from error
    if not feeds:
        raise InputFileError("the inputs file holds no arrays", at=str(path))
    return feeds


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
