"""Graph -> Relax IRModule: one Relax function for the graph and for each of its subgraphs.

The function ``main`` takes the model's inputs and then the weights, and returns a tuple of the
outputs. TVM neither folds nor fuses: the graph is final when it comes here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tvm import relax

from burnish.artifact import held_as
from burnish.errors import BurnishError, LoweringError
from burnish.ir import Constant, Dim, Graph, Node, TensorType, Value
from burnish.ir.dims import is_static, symbols
from burnish.ir.types import from_numpy
from burnish.lowering.context import (
    BuiltKernel,
    External,
    KernelCall,
    KernelTable,
    Lowered,
    NodeContext,
    Weight,
)
from burnish.lowering.joins import Join
from burnish.lowering.module_ops import BIND, CONTROL, LAZY, VIEWS
from burnish.lowering.overwriting import Overwriting
from burnish.lowering.run_time import bind_sizes, check_sizes
from burnish.lowering.scope import indices
from burnish.lowering.tactics import Chooser, CostTable
from burnish.lowering.te_context import Symbols

if TYPE_CHECKING:
    from burnish.backends.base import Target

#: Attribute of an IRModule with the modules that its functions call by name.
EXTERNAL_MODULES = "external_mods"


class ModuleLowering:
    """Lowers a graph for a target.

    Attributes:
        weights: Weights in the order of ``main``'s trailing parameters.
        calls: Every kernel call in execution order.
        chooser: Takes one of the tactics of every composite that has several.
        externals: Operations of libraries that are called, by library.
    """

    def __init__(self, graph: Graph, target: Target, chooser: Chooser | None = None) -> None:
        self.graph = graph
        self.target = target
        self.chooser: Chooser = chooser or CostTable()
        self.rules = target.backend.rules()
        self.table = target.backend.table()
        self.builder = relax.BlockBuilder()
        self.kernels = KernelTable(self.builder)
        self.weights: list[Weight] = []
        self.calls: list[KernelCall] = []
        self.externals: dict[str, External] = {}
        self.te_kernels: dict[Hashable, tuple[BuiltKernel, tuple[int, ...]]] = {}
        #: Whether sizes are bound while the model runs.
        self.has_run_time_sizes = any(n.key in CONTROL | {BIND} for n in graph.walk())
        self._weight_index: dict[Hashable, int] = {}
        self._branches = 0

    def run(self, progress: Callable[[int, int], None] | None = None) -> Any:
        """The IRModule; raises LoweringError with the node when a kernel cannot be built."""
        main = FunctionLowering(self, self.graph, "main")
        main.build_main(progress)
        mod = self.builder.get()
        modules = [self.externals[name].module() for name in self.libraries]
        return mod.with_attr(EXTERNAL_MODULES, modules) if modules else mod

    @property
    def libraries(self) -> tuple[str, ...]:
        """Names of the libraries whose operations are called."""
        return tuple(sorted(name for name, external in self.externals.items() if len(external)))

    def rule_for(self, node: Node) -> Any:
        """The backend's kernel rule that takes a node, or None."""
        rule = self.rules.get(node.key)
        if rule is None or rule.accepts(node) is not None:
            return None
        return rule

    def weight_index(
        self,
        const: Constant,
        name: str,
        key: Hashable,
        pack: Callable[[np.ndarray], np.ndarray] | None,
        shape: tuple[int, ...] | None = None,
    ) -> int:
        """Position of a weight among ``main``'s trailing parameters."""
        full_key = (id(const), key)
        if full_key not in self._weight_index:
            index = len(self.weights)
            stem = re.sub(r"[^\w.]", "_", name)[:80]
            self.weights.append(_weight(f"{index:04d}.{stem}", const, pack, shape))
            self._weight_index[full_key] = index
        return self._weight_index[full_key]

    def branch_name(self, op: str) -> str:
        """A name for the next subgraph function."""
        self._branches += 1
        return f"{op.lower()}_{self._branches}"


class FunctionLowering:
    """Lowers one graph to one Relax function.

    Attributes:
        owns_outputs: Whether the caller may write to what the function returns.
    """

    owns_outputs: ClassVar[bool] = True

    def __init__(self, module: ModuleLowering, graph: Graph, name: str) -> None:
        self.module = module
        self.graph = graph
        self.name = name
        # A builder of its own: TVM's builder refuses a function inside a function.
        self.builder = module.builder if name == "main" else relax.BlockBuilder()
        self.symbols = Symbols()
        self.env: dict[Value, Lowered] = {}
        self.weight_vars: dict[int, Any] = {}
        self.done: set[Node] = set()
        self.overwriting = Overwriting(graph)
        #: Concatenations that kernels write into, until they are lowered.
        self.joins: dict[Node, Join] = {}

    # --- types ---------------------------------------------------------------------------------

    def relax_type(self, t: TensorType) -> Any:
        """The Relax type of an IR type."""
        return relax.TensorType(list(indices(self.symbols, t.dims)), held_as(t.dtype))

    def _check_symbols(self) -> None:
        bare = {str(d) for v in self.graph.inputs for d in v.shape if not is_static(d)}
        for value in self.graph.inputs:
            for dim in value.shape:
                missing = symbols(dim) - bare
                if missing:
                    raise LoweringError(
                        f"symbol {min(missing)!r} of input {value.name} is no dimension of its own",
                        hint="name the dims of the inputs with --input-shapes",
                    )

    # --- functions -----------------------------------------------------------------------------

    def build_main(self, progress: Callable[[int, int], None] | None) -> None:
        """Emit ``main(inputs..., weights...)``."""
        self._check_symbols()
        params = []
        for value in self.graph.inputs:
            var = relax.Var(_identifier(value.name), self.relax_type(value.t))
            self.env[value] = Lowered(var, value.shape, value.dtype)
            params.append(var)
        with self.builder.function(self.name):
            outputs = self.lower_nodes(progress)
            # Weights that no kernel of this function reads are read by its branches.
            for index in range(len(self.module.weights)):
                self.weight_var(index)
            weights = [self.weight_vars[i] for i in range(len(self.module.weights))]
            self.builder.emit_func_output(relax.Tuple(outputs), params=[*params, *weights])

    def weight_var(self, index: int) -> Any:
        """This function's parameter for a weight."""
        if index not in self.weight_vars:
            weight = self.module.weights[index]
            type = relax.TensorType(list(weight.shape), held_as(weight.dtype))
            self.weight_vars[index] = relax.Var(f"w.{index}", type)
        return self.weight_vars[index]

    def lower_nodes(self, progress: Callable[[int, int], None] | None = None) -> list[Any]:
        """Emit every node, and the results as Relax expressions."""
        nodes = self.graph.nodes
        for i, node in enumerate(nodes):
            if node.key not in LAZY:
                self.lower(node)
            if progress is not None:
                progress(i + 1, len(nodes))
        results: list[Any] = []
        params = {id(self.env[v].expr) for v in self.graph.inputs}
        params |= {id(v) for v in self.weight_vars.values()}
        for value in self.graph.outputs:
            lowered = self.tensor(value)
            if self.owns_outputs and (
                id(lowered.expr) in params
                or value.is_const
                or any(lowered.expr is r for r in results)
            ):
                # The caller owns an output: it is no alias of an input, a weight or another one.
                lowered = self.module.table.copy(NodeContext(self, _copy_node(value)), lowered)
            results.append(lowered.expr)
        return results

    # --- values --------------------------------------------------------------------------------

    def tensor(self, value: Value) -> Lowered:
        """A lowered value; lowers its producer first if that was put off."""
        if value not in self.env:
            if value.const is not None:
                self.env[value] = self.weight(value.const, value.name, "", None)
            elif value.producer is not None and value.producer in self.graph:
                self.lower(value.producer)
            else:
                raise LoweringError(f"value {value.name} is not available in {self.name}")
        return self.env[value]

    def weight(
        self,
        const: Constant,
        name: str,
        key: Hashable,
        pack: Callable[[np.ndarray], np.ndarray] | None,
        shape: tuple[int, ...] | None = None,
    ) -> Lowered:
        """A weight as a tensor of this function."""
        index = self.module.weight_index(const, name, key, pack, shape)
        weight = self.module.weights[index]
        return Lowered(self.weight_var(index), weight.shape, weight.dtype)

    def reshape(self, tensor: Lowered, dims: tuple[Dim, ...]) -> Lowered:
        """A view with another shape."""
        if tuple(map(str, dims)) == tuple(map(str, tensor.dims)):
            return tensor
        shape = relax.ShapeExpr(list(indices(self.symbols, dims)))
        view = self.builder.emit(relax.op.reshape(tensor.expr, shape))
        self.overwriting.add_view(view, tensor.expr)
        return Lowered(view, dims, tensor.dtype)

    # --- nodes ---------------------------------------------------------------------------------

    def lower(self, node: Node) -> None:
        """Emit one node."""
        if node in self.done:
            return
        self.done.add(node)
        try:
            check_sizes(self, node)
            ctx = NodeContext(self, node)
            rule = self.module.rule_for(node)
            if node.key in VIEWS:
                ctx.set(self.reshape(self.tensor(node.required(0)), node.output.shape))
            elif node.key in CONTROL:
                # It lowers functions of its own, with the classes of this module.
                from burnish.lowering.control import emit_control

                emit_control(self, node)
            elif node.key == BIND:
                bind_sizes(self, node)
            elif rule is not None:
                rule.emit(ctx, node)
            else:
                self.module.table.emit(ctx, node)
        except BurnishError as error:
            if error.at is None:
                error.at = f"{node.key} {node.location}"
            raise
        except Exception as error:
            raise LoweringError(
                f"{node.key} could not be lowered: {error}", at=f"{node.key} {node.location}"
            ) from error


def _weight(
    name: str,
    const: Constant,
    pack: Callable[[np.ndarray], np.ndarray] | None,
    shape: tuple[int, ...] | None,
) -> Weight:
    if pack is None:
        dims = tuple(d for d in const.type.dims if isinstance(d, int))
        return Weight(name, const.type.dtype, dims, lambda: const.array)
    if shape is not None:
        return Weight(name, const.type.dtype, shape, lambda: pack(const.array))
    packed = np.ascontiguousarray(pack(const.array))
    return Weight(name, from_numpy(packed.dtype), packed.shape, lambda: packed)


def _copy_node(value: Value) -> Node:
    node = Node("Identity", [], [], name=value.name)
    return node


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name) or "x"
