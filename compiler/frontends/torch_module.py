"""Modules of torch: exported by ``torch.onnx.export(..., dynamo=True)``, and run as reference."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from burnish.check import RecordedCase, RecordedReference, draw_session_inputs
from burnish.check.inputs import Shapes
from burnish.errors import BurnishError, ModelError, TargetUnavailableError, UsageError
from burnish.frontends.base import Exported
from burnish.frontends.torch_calls import Call, to_numpy
from burnish.frontends.torch_state import evaluating, on_cpu, quiet, unwrapped

#: The oldest release whose exporter takes ``dynamic_shapes``.
_OLDEST = (2, 6)
#: Larger models keep their weights in a file of their own: protobuf holds no more than 2 GiB.
_IN_ONE_FILE = 1 << 28


@dataclass(frozen=True)
class TorchRunner:
    """A call of a module, for :func:`burnish.bench.measure`."""

    module: torch.nn.Module
    call: Call
    threads: int
    name: str = "torch"
    version: str = str(torch.__version__)

    def prepare(self, feeds: Mapping[str, Any]) -> Callable[[], object]:
        """A function that calls the module on its arguments, of which ``feeds`` are the arrays."""
        module, args, kwargs = self.module, self.call.args, self.call.kwargs
        return lambda: module(*args, **kwargs)


class TorchModule:
    """A module, borrowed: it is the caller's again, as it was, after every method.

    Args:
        module: The module, on any device, in any mode.

    Raises:
        UsageError: Its parameters have no values in this process.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self.original = unwrapped(module)
        self.name = f"torch module {type(self.original).__name__}"
        self._module = on_cpu(self.original)

    def export(
        self, folder: Path, example_inputs: Any, dynamic_shapes: Any, *, record: bool
    ) -> Exported:
        """Write the module as ``model.onnx`` into ``folder``, in eval mode, on the CPU.

        Args:
            folder: Gets the file, and ``model.onnx.data`` if the weights are large.
            example_inputs: See :meth:`burnish.frontends.torch_calls.Call.of`.
            dynamic_shapes: As for ``torch.export.export``; dims may be names.
            record: Also record what the module computes.

        Returns:
            The file. Its inputs are called as the parameters of ``forward``, its outputs as the
            keys of what ``forward`` returns, or ``output``, ``output_0``, ``output_1`` …

        Raises:
            UsageError: The example or the dynamic shapes do not fit.
            ModelError: torch does not export the module.
            TargetUnavailableError: torch is too old, or onnxscript is missing.
        """
        _require_exporter()
        if example_inputs is None:
            raise UsageError(
                "a torch module needs example inputs",
                at=self.name,
                hint="burnish.compile(module, example_inputs=(x,))",
            )
        call = Call.of(self._module, example_inputs)
        path = folder / "model.onnx"
        with evaluating(self._module):
            outputs = call.run(self._module)
            program = self._program(call, dynamic_shapes)
            self._name_dims(program, call, dynamic_shapes)
            names = list(call.tensors())
            # A module may return what is called as one of its inputs; ONNX has one name for one.
            results = [f"{name}_output" if name in names else name for name in outputs]
            _rename(program, type(self.original).__name__, names, results)
            program.save(str(path), external_data=self._bytes() > _IN_ONE_FILE)
        reference = self._record([call, call.drawn(0)], optional=1) if record else None
        return Exported(path, call.inputs(), reference)

    def record(
        self,
        inputs: Any,
        declared: Sequence[Any],
        *,
        drawn_like: Any = None,
        shapes: Shapes | None = None,
        seed: int = 0,
    ) -> RecordedReference:
        """Run the module in eval mode on the CPU, and keep inputs and outputs.

        Args:
            inputs: Arguments of one call, or a list of several; see
                :meth:`burnish.frontends.torch_calls.Call.of`.
            declared: Inputs of the compiled model; arguments are drawn by them if nothing else is
                known, and by name.
            drawn_like: Example inputs; without ``inputs``, others are drawn like them.
            shapes: Shapes of arguments that are drawn by what is declared.
            seed: Of what is drawn.

        Raises:
            UsageError: The inputs do not fit the module.
        """
        if inputs is not None:
            sets = inputs if isinstance(inputs, list) else [inputs]
            calls = [Call.of(self._module, each) for each in sets]
        elif drawn_like is not None:
            drawn = draw_session_inputs(declared, shapes=shapes, seed=seed)
            calls = [Call.of(self._module, drawn_like).drawn(seed)]
        else:
            drawn = draw_session_inputs(declared, shapes=shapes, seed=seed)
            calls = [Call.of(self._module, drawn)]
        return self._record(calls, seed=seed if inputs is None else None)

    @contextlib.contextmanager
    def timed(self, example_inputs: Any, threads: int) -> Iterator[TorchRunner]:
        """The module as something to time, in eval mode, on the CPU, with ``threads`` threads."""
        call, before = Call.of(self._module, example_inputs), torch.get_num_threads()
        with evaluating(self._module):
            torch.set_num_threads(threads)
            try:
                yield TorchRunner(self._module, call, threads)
            finally:
                torch.set_num_threads(before)

    def _record(
        self, calls: list[Call], *, optional: int = 0, seed: int | None = None
    ) -> RecordedReference:
        """What the module computes; of the last ``optional`` calls, it may refuse any."""
        cases = []
        with evaluating(self._module):
            for position, call in enumerate(calls):
                try:
                    outputs = call.run(self._module)
                except UsageError:
                    if position < len(calls) - optional:
                        raise
                    continue
                values = {name: to_numpy(tensor) for name, tensor in outputs.items()}
                cases.append(RecordedCase(call.arrays(), values))
        description = f"torch {torch.__version__}, the module itself in eval mode, CPU"
        return RecordedReference(self.name, description, tuple(cases), seed)

    def _program(self, call: Call, dynamic_shapes: Any) -> Any:
        shapes = _by_argument(call, dynamic_shapes)
        try:
            with quiet():
                program = torch.onnx.export(
                    self._module,
                    call.args,
                    kwargs=call.kwargs,
                    dynamo=True,
                    dynamic_shapes=shapes,
                    verbose=False,
                )
        except BurnishError:
            raise
        except Exception as error:
            reason = _root(error)
            raise ModelError(
                f"torch does not export the module: {reason}",
                at=self.name,
                hint=_hint(reason, call, shapes),
            ) from error
        return program

    def _name_dims(self, program: Any, call: Call, shapes: Any) -> None:
        """Call the dynamic dims of the exported graph as the user does.

        torch does so only where every argument is a tensor.

        Raises:
            ModelError: torch has fixed one of them, which it does without a word.
        """
        if isinstance(shapes, Mapping):
            shapes = [shapes.get(name) for name in (*call.names, *call.kwargs)]
        requested = _requested([*call.args, *call.kwargs.values()], shapes)
        names: dict[str, str] = {}
        for (name, tensor), dims, value in zip(
            call.tensors().items(), requested, program.model.graph.inputs, strict=False
        ):
            for axis, dim in _dynamic_dims(dims).items():
                if isinstance(value.shape[axis], int):
                    raise ModelError(
                        f"torch fixes dim {axis} of {name} at {tensor.shape[axis]}",
                        at=self.name,
                        hint="give an example with a size of 2 or more there, or leave the dim out "
                        "of dynamic_shapes if forward wants that size",
                    )
                # Dims have a name, derived dims (2*batch) and hints have none of their own.
                wanted = dim if isinstance(dim, str) else getattr(dim, "__name__", "")
                if wanted.isidentifier():
                    names.setdefault(str(value.shape[axis].value), wanted)
        _rename_symbols(program.model.graph, names)

    def _bytes(self) -> int:
        tensors = [*self._module.parameters(), *self._module.buffers()]
        return sum(t.numel() * t.element_size() for t in tensors)


def _require_exporter() -> None:
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _OLDEST:
        raise TargetUnavailableError(
            f"torch {torch.__version__} is too old to export modules",
            hint="pip install 'burnish[torch]'",
        )
    if importlib.util.find_spec("onnxscript") is None:
        raise TargetUnavailableError(
            "torch exports modules with onnxscript, which is not installed",
            hint="pip install 'burnish[torch]'",
        )


def _by_argument(call: Call, shapes: Any) -> Any:
    """Dynamic shapes of all arguments, in the order of the call.

    torch.export wants every argument named, in this very order; who writes a dict means those that
    have dynamic dims.
    """
    if not isinstance(shapes, Mapping) or not shapes:
        return shapes or None
    known = [*call.names, *call.kwargs]
    unknown = [str(name) for name in shapes if name not in known]
    if unknown:
        raise UsageError(
            f"dynamic_shapes names {', '.join(unknown)}, which the example inputs do not have",
            hint="the arguments are: " + ", ".join(known),
        )
    return {
        name: shapes[name] if shapes.get(name) is not None else _static(value)
        for name, value in zip(known, [*call.args, *call.kwargs.values()], strict=True)
    }


def _requested(value: Any, shapes: Any) -> Iterator[Any]:
    """The dynamic dims of each tensor of an argument."""
    if isinstance(value, torch.Tensor):
        yield shapes
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _requested(item, shapes[key] if shapes else None)
    elif isinstance(value, (list, tuple)):
        for item, dims in zip(value, shapes or [None] * len(value), strict=True):
            yield from _requested(item, dims)
    else:
        # Containers of other kinds are known to torch, which has checked them.
        leaves = pytree.tree_leaves(value)
        yield from (None for leaf in leaves if isinstance(leaf, torch.Tensor))


def _dynamic_dims(dims: Any) -> dict[int, Any]:
    """Dims of one tensor that must not be fixed, by axis."""
    items = dims.items() if isinstance(dims, Mapping) else enumerate(dims or ())
    either = (torch.export.Dim.AUTO, torch.export.Dim.STATIC)
    return {
        axis: dim for axis, dim in items if not (dim is None or type(dim) is int or dim in either)
    }


def _rename_symbols(graph: Any, names: Mapping[str, str]) -> None:
    """Rename symbols in all shapes of a graph, within expressions as well."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        for axis, dim in enumerate(value.shape or ()):
            old = None if isinstance(dim, int) else dim.value
            if old is not None:
                new = re.sub(r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), old)
                if new != old:
                    value.shape[axis] = new


def _static(value: Any) -> Any:
    return pytree.tree_map(lambda leaf: None, value)


def _rename(program: Any, name: str, inputs: list[str], outputs: list[str]) -> None:
    """Give the exported graph, its inputs and outputs the names that its user knows."""
    graph = program.model.graph
    graph.name = name
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        if len(values) != len(names):
            raise ModelError(
                f"torch exports {[value.name for value in values]} for {names}",
                hint="pass and return tensors only",
            )
    # A new name may be one that another value of the graph has.
    taken = {value.name for node in graph for value in node.outputs}
    taken |= {*graph.initializers, *(value.name for value in graph.inputs)}
    wanted = {*inputs, *outputs}
    for node in graph:
        for value in node.outputs:
            if value.name in wanted:
                value.name = _free(f"{value.name}_value", taken | wanted)
                taken.add(value.name)
    for values, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for value, known in zip(values, names, strict=True):
            value.name = known


def _free(name: str, taken: set[str]) -> str:
    candidate, count = name, 1
    while candidate in taken:
        candidate, count = f"{name}_{count}", count + 1
    return candidate


def _root(error: BaseException) -> str:
    """What torch has to say, without the advice around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # These are followed by what was violated.
    count = 3 if re.search("onstraints violated|Found the following conflicts", text) else 1
    return f"{type(error).__name__}: {' '.join(lines[:count])[:500]}"


def _hint(reason: str, call: Call, shapes: Any) -> str:
    small = [name for name, tensor in call.tensors().items() if 1 in tensor.shape]
    if shapes and re.search("pecializ|onstraint|onflict", reason):
        if small:
            return (
                f"torch takes a size of 1 for fixed ({', '.join(small)}): "
                "give example inputs with sizes of 2 or more in dynamic dims"
            )
        return "forward fixes that size; make its shapes depend on those of its inputs"
    if "data-dependent" in reason:
        return "use torch.cond or torch.where where forward branches on values of tensors"
    if "No ONNX function" in reason or "No decompositions" in reason:
        return "replace that operator in forward: ONNX has none like it"
    return "torch.export.draft_export(module, args) lists everything that is in the way"
