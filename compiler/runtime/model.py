"""A compiled model that is ready to run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from burnish.artifact.dtypes import DATA_TYPES
from burnish.artifact.manifest import Dim, Manifest, TensorInfo
from burnish.artifact.reader import Artifact, open_artifact
from burnish.artifact.writer import copy_artifact
from burnish.errors import InvalidInputError, RunError, UsageError
from burnish.runtime.inputs import Array, InputBinder, is_torch, to_torch
from burnish.runtime.library import default_threads
from burnish.runtime.session import KernelCall, Session


@dataclass(frozen=True)
class NodeArg:
    """An input or output, described as onnxruntime's ``NodeArg`` does.

    Attributes:
        name: Its name.
        type: Its type in onnxruntime's spelling: ``tensor(float)``.
        shape: Its dims: a size, the name of a symbolic dim, or None where nothing is known.
    """

    name: str
    type: str
    shape: list[Dim]


class CompiledModel:
    """A compiled model, loaded.

    It is called like an ``onnxruntime.InferenceSession`` (:meth:`run`) or like a function. It may
    be called from several threads at once; each call uses :attr:`threads` threads of its own.
    Inputs are only read, and not copied if they are contiguous. Outputs belong to the caller.

    :func:`load` and ``burnish.compile`` make them.

    Args:
        artifact: A checked artifact.
        threads: Threads of a call; None for all CPUs that the process may use.
        device: Which GPU, for a model compiled for one.
        temporary: The temporary folder the artifact lies in, removed with the model.
    """

    def __init__(
        self,
        artifact: Artifact,
        *,
        threads: int | None = None,
        device: int = 0,
        temporary: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        manifest = artifact.manifest
        self._artifact = artifact
        self._temporary = temporary
        #: Inputs of one call of what the model was compiled from, where that was a module.
        self.example_inputs: Any = None
        self._names = [info.name for info in manifest.outputs]
        self._binder = InputBinder(manifest.inputs, manifest.symbols, manifest.conditions)
        self._session: Session | None = Session(artifact, device)
        self._threads = 1
        self.threads = default_threads() if threads is None else threads

    @property
    def manifest(self) -> Manifest:
        """What is known of the model: inputs, outputs, target, nodes, passes, versions."""
        return self._artifact.manifest

    @property
    def path(self) -> Path:
        """The artifact's folder."""
        return self._artifact.path

    @property
    def threads(self) -> int:
        """Threads that a call uses. Setting it holds for the calls that begin afterwards."""
        return self._threads

    @threads.setter
    def threads(self, value: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"the number of threads must be a positive integer, not {value!r}")
        self._threads = value

    @property
    def memory(self) -> int:
        """Bytes held for activations and outputs, on a GPU too; weights are not counted."""
        return self._open().memory

    def get_inputs(self) -> list[NodeArg]:
        """The inputs, as ``InferenceSession.get_inputs``."""
        return [_node_arg(info) for info in self.manifest.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, as ``InferenceSession.get_outputs``."""
        return [_node_arg(info) for info in self.manifest.outputs]

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """Run the model, as ``InferenceSession.run``.

        Args:
            output_names: Outputs to return, in this order; None for all.
            feeds: An array of the input's dtype and shape for each input, by name.

        Returns:
            The outputs as numpy arrays.

        Raises:
            InvalidInputError: A name, dtype or shape is wrong.
            RunError: The model failed, or is closed.
        """
        session = self._session or self._open()
        # The arrays keep the memory that the pointers refer to.
        arrays, pointers, shapes = self._binder.bind(feeds)
        outputs = session.run(pointers, shapes, self._threads)
        del arrays
        if output_names is None:
            return outputs
        return [outputs[self._index(name)] for name in output_names]

    def __call__(self, /, **inputs: Any) -> dict[str, Any]:
        """Run the model on inputs by name: ``model(x=x)``.

        Args:
            inputs: Numpy arrays, or tensors of any library that speaks DLPack, such as torch.

        Returns:
            The outputs by name: torch tensors if an input was one, otherwise numpy arrays, which
            other libraries take without a copy through ``from_dlpack``.

        Raises:
            InvalidInputError: A name, dtype or shape is wrong.
            RunError: The model failed, or is closed.
        """
        outputs: Sequence[Any] = self.run(None, inputs)
        if any(is_torch(value) for value in inputs.values()):
            outputs = [to_torch(array) for array in outputs]
        return dict(zip(self._names, outputs, strict=True))

    def profile(self, feeds: Mapping[str, Any]) -> list[KernelCall]:
        """Run once and return the time of each kernel, in the order of execution."""
        arrays, pointers, shapes = self._binder.bind(feeds)
        _, calls = self._open().profile(pointers, shapes, self._threads)
        del arrays
        return calls

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model's artifact to the folder ``path``.

        Returns:
            The folder, absolute.

        Raises:
            InputFileError: ``path`` exists and ``overwrite`` is false, or cannot be written.
        """
        return copy_artifact(self._artifact.path, path, overwrite=overwrite)

    def close(self) -> None:
        """Unload the model once calls under way have ended. Outputs stay valid."""
        self._session = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def __enter__(self) -> CompiledModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        target = self.manifest.target
        return (
            f"<CompiledModel {self.manifest.model_name!r} for {target.name} ({target.isa}), "
            f"{len(self.manifest.nodes)} nodes, {self._threads} threads>"
        )

    def _open(self) -> Session:
        if self._session is None:
            raise RunError("the model is closed", hint="load it again")
        return self._session

    def _index(self, name: str) -> int:
        try:
            return self._names.index(name)
        except ValueError:
            raise InvalidInputError(
                f"the model has no output {name!r}",
                at=name,
                hint="its outputs are " + ", ".join(map(repr, self._names)),
            ) from None


def _node_arg(info: TensorInfo) -> NodeArg:
    return NodeArg(info.name, f"tensor({DATA_TYPES[info.dtype].ort})", list(info.shape))


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    *,
    verify: bool = False,
    device: int = 0,
) -> CompiledModel:
    """Load an artifact.

    Needs neither ONNX nor onnxruntime nor TVM's compiler. Before any of its code is loaded, the
    artifact's schema, files, hashes and CPU features are checked. Of the weights, which are mapped
    and read when first used, only the header and the ends of every tensor are hashed.

    Args:
        path: The folder that was compiled.
        threads: Threads of a call; None for all CPUs that the process may use.
        verify: Check the hash of all weights too: about a second per gigabyte.
        device: Which GPU, for a model compiled for one: its number, from 0.

    Raises:
        InputFileError: There is no such folder.
        ArtifactError: The artifact is damaged, of another schema, or for another machine.
        TargetUnavailableError: burnish's native library or TVM's runtime is not installed, or
            there is no GPU, driver or CUDA library for a model that needs one.
    """
    return CompiledModel(open_artifact(path, verify=verify), threads=threads, device=device)
