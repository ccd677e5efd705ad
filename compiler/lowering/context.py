"""What kernel rules see: a node, its lowered inputs, and how to call a kernel.

One node of the IR is one kernel call, or none (a view). Kernels whose specification and shapes are
equal, whatever their symbols are called, are built once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from tvm import relax, tirx
from tvm_ffi import structural_hash

from burnish.errors import LoweringError
from burnish.ir import Dim, Node, TensorType, Value
from burnish.ir.dims import add, product
from burnish.ir.types import to_numpy
from burnish.lowering.precision import computed_in, weights_in
from burnish.lowering.scope import Index, canonical_symbols, index, indices, rename
from burnish.lowering.te_context import Symbols

if TYPE_CHECKING:
    from burnish.backends.cpu.tir import Kernel
    from burnish.lowering.module import FunctionLowering
    from burnish.lowering.tactics import Choice


@dataclass(frozen=True)
class Lowered:
    """A tensor of the Relax function.

    Attributes:
        expr: The Relax variable.
        dims: Its shape in the IR's terms.
        dtype: Element type.
    """

    expr: Any
    dims: tuple[Dim, ...]
    dtype: str


@dataclass(frozen=True)
class CallShapes:
    """Shapes that a kernel is built for, over the kernel's own variables.

    Attributes:
        symbols: The kernel's variables: ``s0``, ``s1``, … in order of appearance.
        inputs: Shape of every input.
        outputs: Shape of every output.
        names: The graph's symbols to those of the kernel.
    """

    symbols: Symbols
    inputs: tuple[tuple[Index, ...], ...]
    outputs: tuple[tuple[Index, ...], ...]
    names: dict[str, str]

    def expr(self, dim: Dim) -> Index:
        """A dim of the graph as an index over the kernel's variables."""
        return index(self.symbols, rename([dim], self.names)[0])


@dataclass(frozen=True)
class Weight:
    """A constant operand, as the artifact stores it.

    Attributes:
        name: Unique, ``0012.encoder.layer.0.weight``.
        dtype: Element type, an IR name.
        shape: Shape of the packed data.
        data: Makes the packed data; where their shape is known beforehand, they are packed only
            then, so that all packed weights need not be in memory at once.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Size of the packed data."""
        return math.prod(self.shape) * to_numpy(self.dtype).itemsize


@dataclass(frozen=True)
class KernelCall:
    """One kernel call of the lowered model, for manifest and profile.

    Attributes:
        kernel: Function name in the module; empty for a view.
        node: Operator or composite.
        names: Original node names.
        outputs: Names of the values it makes.
        dtype: Element type of the result.
        computes: Element type of the arithmetic, empty where there is none.
        flops: Multiply-adds count twice; a dim, so it may be symbolic. 0 when not a compute kernel.
        detail: What the rule chose (tile, layout), for ``inspect``.
        nbytes: Size of what it reads and writes, each operand once; a dim.
        tactic: Which of the composite's tactics it belongs to; empty where there are none.
        why: Why that tactic was taken.
        weights: What its weights are stored in, if that is narrower than what it computes in.
    """

    kernel: str
    node: str
    names: tuple[str, ...]
    outputs: tuple[str, ...]
    dtype: str
    computes: str
    flops: Dim = 0
    detail: str = ""
    nbytes: Dim = 0
    tactic: str = ""
    why: str = ""
    weights: str = ""


class External(Protocol):
    """Operations of a library that the lowered model calls by name, besides the kernels."""

    def __len__(self) -> int:
        """How many there are."""

    def module(self) -> Any:
        """The TVM module that has them; it is linked into the model library."""

    def notes(self) -> list[str]:
        """What to tell of them in the report, where the library was asked for."""


@dataclass(frozen=True)
class BuiltKernel:
    """A kernel in the module.

    Attributes:
        var: The Relax global.
        scalars: Canonical names of the symbols that it takes as scalars.
    """

    var: Any
    scalars: tuple[str, ...]


@dataclass
class KernelTable:
    """Kernels of one module, shared by key."""

    builder: Any
    entries: dict[Hashable, BuiltKernel] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(
        self, name: str, key: Hashable, kernel: Kernel, outputs: int, scalars: tuple[str, ...]
    ) -> BuiltKernel:
        """Put a kernel into the module under a unique name made from ``name`` and its code.

        A kernel that did not change keeps its name when others come or go: the name is in its
        object file, which may be reused.
        """
        stem = re.sub(r"\W", "_", name)
        self.counts[stem] = self.counts.get(stem, 0) + 1
        func = _scalars_before_outputs(kernel, outputs)
        digest = structural_hash(func, map_free_vars=True) & 0xFFFFFFFF
        var = self.builder.add_func(func, f"{stem}_{digest:08x}")
        self.entries[key] = BuiltKernel(var, scalars)
        return self.entries[key]


def _scalars_before_outputs(kernel: Kernel, outputs: int) -> Any:
    """Relax passes scalars with the inputs, while kernels list them last."""
    func = kernel.func
    if not kernel.scalars:
        return func
    params = list(func.params)
    count = len(kernel.scalars)
    tensors, scalars = params[:-count], params[-count:]
    ordered = tensors[: len(tensors) - outputs] + scalars + tensors[len(tensors) - outputs :]
    return tirx.PrimFunc(ordered, func.body, func.ret_type, func.attrs)


class NodeContext:
    """Lowers one node: reads lowered inputs, calls kernels, sets outputs.

    Attributes:
        choice: The tactic that was chosen for the node, if it has tactics.
        computes: Element type of the arithmetic, where the node itself does not tell.
    """

    def __init__(self, function: FunctionLowering, node: Node) -> None:
        self.function = function
        self.node = node
        self.isa = function.module.target.isa
        self.choice: Choice | None = None
        self.computes = ""

    def tensor(self, value: Value) -> Lowered:
        """A lowered value with exactly its IR shape."""
        return self.function.tensor(value)

    def weight(
        self,
        value: Value,
        key: Hashable = "",
        pack: Callable[[np.ndarray], np.ndarray] | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Lowered:
        """A constant in the form that a kernel wants.

        Args:
            value: A constant value.
            key: Names the form; equal (constant, key) pairs share one stored weight.
            pack: Makes the form of the constant's array, of the same dtype; None stores it as it
                is.
            shape: Shape of what ``pack`` returns, where it is known: it is packed late then.
        """
        if value.const is None:
            raise LoweringError(f"{value.name} is not constant", at=str(self.node.location))
        return self.function.weight(value.const, value.name, key, pack, shape)

    def call(
        self,
        name: str,
        key: Hashable,
        build: Callable[[CallShapes], Kernel],
        inputs: Sequence[Lowered],
        outputs: Sequence[TensorType],
        *,
        flops: Dim = 0,
        detail: str = "",
        extra_dims: Sequence[Dim] = (),
        over: int | None = None,
    ) -> tuple[Lowered, ...]:
        """Call a kernel, building it if no equal one exists.

        Args:
            name: Kernel family, for people.
            key: Everything but shapes and dtypes that the kernel's code depends on.
            build: Builds the kernel for shapes over its own variables.
            inputs: Tensors in argument order.
            outputs: Types of the results in argument order.
            flops: Floating-point operations of the call.
            detail: What was chosen, for the report.
            extra_dims: Dims that the kernel needs and that no argument has.
            over: Which of the inputs the one result is written over; the kernel has no output
                argument then. See :meth:`overwrites`.
        """
        shapes = [t.dims for t in inputs] + [t.dims for t in outputs] + [tuple(extra_dims)]
        names = canonical_symbols(shapes)
        canonical = [rename(s, names) for s in shapes]
        dtypes = (*(t.dtype for t in inputs), *(t.dtype for t in outputs))
        full_key = (name, key, dtypes, tuple(tuple(map(str, s)) for s in canonical), over)
        table = self.function.module.kernels
        built = table.entries.get(full_key)
        if built is None:
            symbols = Symbols()
            exprs = [indices(symbols, s) for s in canonical]
            n = len(inputs)
            kernel = build(CallShapes(symbols, tuple(exprs[:n]), tuple(exprs[n:-1]), names))
            scalars = tuple(v.name for v in kernel.scalars)
            count = len(outputs) if over is None else 0
            built = table.add(name, full_key, kernel, count, scalars)
        return self.emit_call(built, names, inputs, outputs, flops, detail, over)

    def overwrites(self, operand: Value) -> bool:
        """Whether a kernel of this node may write its result over one of its operands."""
        function = self.function
        return function.overwriting.allows(self.node, operand, function.env)

    def emit_call(
        self,
        built: BuiltKernel,
        names: dict[str, str],
        inputs: Sequence[Lowered],
        outputs: Sequence[TensorType],
        flops: Dim = 0,
        detail: str = "",
        over: int | None = None,
    ) -> tuple[Lowered, ...]:
        """Emit the call of a kernel that is in the module; ``names`` maps symbols to canonical."""
        function = self.function
        originals = {new: old for old, new in names.items()}
        scalars = [function.symbols.var(originals[s]) for s in built.scalars]
        types = [function.relax_type(t) for t in outputs]
        arguments = relax.Tuple([*(t.expr for t in inputs), *scalars])
        result_types = types if len(types) > 1 else types[0]
        if over is None:
            call = relax.call_tir(built.var, arguments, result_types)
        else:
            call = relax.call_tir_inplace(built.var, arguments, [over], result_types)
        result = function.builder.emit(call)
        exprs = [result]
        if len(outputs) > 1:
            exprs = [
                function.builder.emit(relax.TupleGetItem(result, i)) for i in range(len(outputs))
            ]
        nbytes: Dim = 0
        for dtype, dims in [(t.dtype, t.dims) for t in inputs] + [
            (t.dtype, t.dims) for t in outputs
        ]:
            nbytes = add(nbytes, product([to_numpy(dtype).itemsize, *dims]))
        self.record(built.var.name_hint, outputs, flops, detail, nbytes)
        return tuple(Lowered(e, t.dims, t.dtype) for e, t in zip(exprs, outputs, strict=True))

    def record(
        self, kernel: str, outputs: Sequence[TensorType], flops: Dim, detail: str, nbytes: Dim
    ) -> None:
        """Note a call for manifest and profile."""
        node, choice = self.node, self.choice
        dtype = outputs[0].dtype if outputs else ""
        self.function.module.calls.append(
            KernelCall(
                kernel,
                node.key,
                node.location.names,
                tuple(v.name for v in node.outputs if v is not None),
                dtype,
                self.computes or computed_in(node, dtype),
                flops,
                detail,
                nbytes,
                choice.tactic.name if choice else "",
                choice.why if choice else "",
                weights_in(node),
            )
        )

    def set(self, *results: Lowered) -> None:
        """Bind the node's present outputs, in order, to lowered tensors."""
        present = [v for v in self.node.outputs if v is not None]
        for value, lowered in zip(present, results, strict=False):
            self.function.env[value] = lowered

    def reshape(self, tensor: Lowered, dims: Sequence[Dim]) -> Lowered:
        """A view of a tensor with another shape."""
        return self.function.reshape(tensor, tuple(dims))
