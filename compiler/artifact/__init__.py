"""The artifact: the folder ``NAME.burnish`` with ``manifest.json``, ``model.so`` and the weights.

Nothing here imports TVM, ONNX or onnxruntime; :mod:`burnish.artifact.link` works on an executable
that TVM has built.
"""

from burnish.artifact.cpu import cpu_features
from burnish.artifact.dtypes import DATA_TYPES, DataType, held_as
from burnish.artifact.link import compiler_command, cross_compiler, link_module
from burnish.artifact.manifest import (
    LIBRARY_NAME,
    MANIFEST_NAME,
    ONLY_TACTIC,
    SCHEMA_VERSION,
    WEIGHTS_NAME,
    Condition,
    Dim,
    FileInfo,
    Manifest,
    NodeInfo,
    OutputCheck,
    PassInfo,
    TargetInfo,
    TensorInfo,
    Verification,
)
from burnish.artifact.reader import (
    Artifact,
    check_files,
    is_artifact,
    open_artifact,
    read_manifest,
    unfit,
)
from burnish.artifact.weights import Weight, weight_from_array
from burnish.artifact.writer import (
    ArtifactWriter,
    check_destination,
    copy_artifact,
    write_artifact,
)

__all__ = [
    "DATA_TYPES",
    "LIBRARY_NAME",
    "MANIFEST_NAME",
    "ONLY_TACTIC",
    "SCHEMA_VERSION",
    "WEIGHTS_NAME",
    "Artifact",
    "ArtifactWriter",
    "Condition",
    "DataType",
    "Dim",
    "FileInfo",
    "Manifest",
    "NodeInfo",
    "OutputCheck",
    "PassInfo",
    "TargetInfo",
    "TensorInfo",
    "Verification",
    "Weight",
    "check_destination",
    "check_files",
    "compiler_command",
    "copy_artifact",
    "cpu_features",
    "cross_compiler",
    "held_as",
    "is_artifact",
    "link_module",
    "open_artifact",
    "read_manifest",
    "unfit",
    "weight_from_array",
    "write_artifact",
]
