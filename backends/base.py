"""What a backend is: data plus kernels.

The middle of the compiler never asks which backend it works for. It asks a :class:`Target` for its
backend, and the backend for the kernel rule of a node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from burnish.artifact import TargetInfo

if TYPE_CHECKING:
    from burnish.errors import BurnishError
    from burnish.ir import Node
    from burnish.lowering.context import KernelCall, Lowered, NodeContext


@dataclass(frozen=True)
class Refused:
    """A kernel rule's answer when it has no kernel for a node.

    Attributes:
        reason: Why, for the report.
    """

    reason: str


#: Says whether the rule takes a node, from types and attributes alone; None means yes.
Accepts: TypeAlias = "Callable[[Node], Refused | None]"
#: Emits the kernel call of a node.
Emit: TypeAlias = "Callable[[NodeContext, Node], None]"


@dataclass(frozen=True)
class KernelRule:
    """How a backend computes one operator or composite.

    Attributes:
        key: ``Softmax`` or ``burnish::Conv``.
        accepts: The conditions on shapes, dtypes and attributes.
        emit: Emits the call.
    """

    key: str
    accepts: Accepts
    emit: Emit


class TableEmitter(Protocol):
    """Emits what has no kernel rule, from the operator table."""

    def emit(self, ctx: NodeContext, node: Node) -> None:
        """Emit a node of the table, or an Elementwise composite made of such nodes."""

    def copy(self, ctx: NodeContext, tensor: Lowered) -> Lowered:
        """Emit a copy of a tensor."""


@dataclass(frozen=True)
class Target:
    """A backend together with the machine to build for.

    Attributes:
        spec: Canonical spelling, ``x86-64-v4``.
        backend: The backend.
        tvm: What ``tvm.target.Target`` takes.
        machine: Machine name as ``platform.machine()`` gives it, of the host that loads the
            artifact.
        features: CPU flags (as in ``/proc/cpuinfo``) that the artifact needs to run.
        isa: The backend's own description of the instruction set; it has a ``name``.
        device: Where the kernels run: ``cpu`` or ``cuda``.
        precisions: Values of ``--precision`` that the backend has kernels for.
        computes: What tensors of an element type are computed in where that is another one:
            ``{"float16": "fp32"}`` where 16 bits are for storage only.
        no_faster: Element types of 16 bits that are multiplied as such, as fast as float32.
        linker: C++ compiler that links the model library, options included; None for the
            environment's own.
        integers: Whether products of quantized tensors compute in integers.
        weight_only: Whether products read weights in 8 or 4 bits as they are stored.
    """

    spec: str
    backend: Backend
    tvm: Mapping[str, Any] = field(hash=False)
    machine: str
    features: tuple[str, ...]
    isa: Any
    device: str = "cpu"
    precisions: tuple[str, ...] = ("fp32",)
    computes: Mapping[str, str] = field(default_factory=dict, hash=False)
    no_faster: tuple[str, ...] = ()
    linker: str | None = None
    integers: bool = False
    weight_only: bool = False

    def multiplies(self, precision: str) -> bool:
        """Whether products of tensors stored in 16 bits are computed in them, and faster so."""
        dtype = {"fp16": "float16", "bf16": "bfloat16"}.get(precision)
        if dtype is None or precision not in self.precisions:
            return False
        return dtype not in self.computes and dtype not in self.no_faster

    @property
    def info(self) -> TargetInfo:
        """What the manifest says of it."""
        return TargetInfo(
            name=self.spec,
            isa=self.isa.name,
            machine=self.machine,
            features=self.features,
            mcpu=str(self.tvm.get("mcpu", "")),
            device=self.device,
        )


@dataclass(frozen=True)
class Backend:
    """One backend.

    Attributes:
        name: ``x86``.
        specs: Spellings after ``--target`` that it understands, with a line of help each. What
            follows a colon (``arm:neoverse-n1``) is the backend's own.
        resolve: Makes a Target of a spelling; raises UsageError when it does not know what follows
            the colon, and TargetUnavailableError when this machine cannot build it.
        rules: Loads the kernel rules (late: they need TVM).
        table: Loads what emits operators without a kernel rule from their tensor expressions.
        codegen: Loads the function from a module of kernels and a TVM target to machine code.
        phases: Loads the Relax passes that run between lowering and code generation, in order;
            None for those that :mod:`burnish.backends.pipeline` has for all.
        kernels_per_build: Kernels that are built together: few where builds run side by side, many
            where each starts a compiler.
        tools: Programs that it builds with, besides TVM and the linker: a change of them makes what
            a compile cache holds useless.
        remarks: Lines for the report about the kernel calls of a model.
        libraries: Libraries whose operations are further tactics, each with a function that tells
            why it cannot be used here, or None if it can.
        sequential: Whether it has kernels for operators that the table writes as sequential loops.
        lacks: Element types that its kernels of the operator table do not know.
        host_sizes: Whether the host can read what kernels write while a model runs: sizes that
            depend on data, and loops, need it.
    """

    name: str
    specs: Mapping[str, str]
    resolve: Callable[[str], Target]
    rules: Callable[[], Mapping[str, KernelRule]]
    table: Callable[[], TableEmitter]
    codegen: Callable[[], Callable[[Any, Any], Any]]
    phases: Callable[[], Sequence[Any]] | None = None
    kernels_per_build: int = 6
    tools: Callable[[], Sequence[str]] = tuple
    remarks: Callable[[Sequence[KernelCall]], list[str]] = lambda calls: []
    libraries: Mapping[str, Callable[[], BurnishError | None]] = field(
        default_factory=dict, hash=False
    )
    sequential: bool = True
    lacks: frozenset[str] = frozenset({"bfloat16"})
    host_sizes: bool = False
