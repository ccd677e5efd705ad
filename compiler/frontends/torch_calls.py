"""Calls of a module: arguments, their tensors by name, and the same of what it returns.

Names are those of the parameters of ``forward`` and the keys of what it returns; where a value is a
tuple, a list or a mapping, the place follows: ``hidden_0``, ``past_key_values_1_0``. The order is
that of ``torch.utils._pytree``, as in ``torch.export``.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from burnish.errors import ModelError, UsageError

Array = NDArray[Any]


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a module.

    Attributes:
        args: Positional arguments.
        kwargs: Arguments by keyword.
        names: Names of the positional arguments.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: torch.nn.Module, inputs: Any) -> Call:
        """The call that a user means.

        Args:
            module: What is called.
            inputs: A tensor, a tuple of arguments, or a mapping of arguments by keyword. Tensors
                anywhere in them may be NumPy arrays. They are detached, and copied to the CPU.

        Raises:
            UsageError: ``inputs`` is something else, holds no tensor, or does not fit ``forward``.
        """
        args: tuple[Any, ...] = ()
        kwargs: dict[str, Any] = {}
        if isinstance(inputs, Mapping):
            kwargs = {str(key): value for key, value in inputs.items()}
        elif isinstance(inputs, tuple):
            args = inputs
        elif isinstance(inputs, (torch.Tensor, np.ndarray)):
            args = (inputs,)
        else:
            raise UsageError(
                f"inputs of a module cannot be a {type(inputs).__name__}",
                hint="give a tensor, a tuple of arguments, or a dict of arguments by name",
            )
        args, kwargs = pytree.tree_map(_on_cpu, (args, kwargs))
        signature = inspect.signature(module.forward)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(
                f"the inputs do not fit {type(module).__name__}.forward{signature}: {error}",
            ) from None
        names = tuple(_argument_names(signature, bound.args[: len(args)]))
        if args and not kwargs and isinstance(args[-1], dict):
            # torch.onnx.export would take a dict at the end for arguments by keyword.
            kwargs, args, names = {names[-1]: args[-1]}, args[:-1], names[:-1]
        call = cls(args, kwargs, names)
        if not call.tensors():
            raise UsageError("there is no tensor among the inputs of the module")
        return call

    def inputs(self) -> tuple[Any, ...] | dict[str, Any]:
        """What :meth:`of` makes this call of."""
        if not self.kwargs:
            return self.args
        return {**dict(zip(self.names, self.args, strict=True)), **self.kwargs}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors among the arguments, by name, in the exporter's order."""
        values = [*zip(self.names, self.args, strict=True), *self.kwargs.items()]
        return _unique(
            (name, leaf)
            for argument, value in values
            for name, leaf in _leaves(value, argument)
            if isinstance(leaf, torch.Tensor)
        )

    def arrays(self) -> dict[str, Array]:
        """The same as NumPy arrays."""
        return {name: to_numpy(tensor) for name, tensor in self.tensors().items()}

    def run(self, module: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Call a module; what it returns, by name.

        Raises:
            UsageError: The module raises an exception.
            ModelError: It returns what is no tensor.
        """
        try:
            result = module(*self.args, **self.kwargs)
        except Exception as error:
            raise UsageError(
                f"the module fails on these inputs: {type(error).__name__}: {_short(error)}",
                at=type(module).__name__,
                hint="give inputs that the module takes in eval mode",
            ) from error
        return outputs_by_name(result)

    def drawn(self, seed: int) -> Call:
        """A call with other values of the same shapes and kinds.

        Floating-point numbers are normal with the mean and deviation of the example, integers with
        more than two values are drawn from the values of the example, and masks are kept.
        """
        rng = np.random.default_rng(seed)
        args, kwargs = pytree.tree_map(
            lambda leaf: _like(leaf, rng) if isinstance(leaf, torch.Tensor) else leaf,
            (self.args, self.kwargs),
        )
        return Call(args, kwargs, self.names)


def outputs_by_name(result: Any) -> dict[str, torch.Tensor]:
    """The tensors that a module returned; what is None is left out, as the exporter does.

    Raises:
        ModelError: There are no tensors, or other things than tensors.
    """
    if isinstance(result, torch.Tensor):
        return {"output": result}
    # What has names of its own needs no other.
    named = isinstance(result, Mapping) or dataclasses.is_dataclass(result)
    prefix = "" if named or hasattr(result, "_fields") else "output"
    found = _unique((name, leaf) for name, leaf in _leaves(result, prefix) if leaf is not None)
    other = {n: type(leaf).__name__ for n, leaf in found.items() if not torch.is_tensor(leaf)}
    if other or not found:
        listed = ", ".join(
            f"{name or 'the result'} is of type {kind}" for name, kind in other.items()
        )
        raise ModelError(
            f"the module does not return tensors only: {listed or 'it returns nothing'}",
            hint="wrap it in a module that returns tensors; torch.export.register_dataclass makes "
            "a dataclass known, config.use_cache = False leaves the cache of transformers out",
        )
    return found


def to_numpy(tensor: torch.Tensor) -> Array:
    """A tensor as an array; bfloat16 as ml_dtypes' type."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        array: Array = tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return array
    array = tensor.numpy()
    return array


def _on_cpu(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return torch.from_numpy(np.array(leaf))
    # A copy: the caller may go on to write into its tensors.
    return leaf.detach().to("cpu", copy=True) if isinstance(leaf, torch.Tensor) else leaf


def _argument_names(signature: inspect.Signature, args: tuple[Any, ...]) -> Iterator[str]:
    parameters = list(signature.parameters.values())
    for position in range(len(args)):
        parameter = parameters[min(position, len(parameters) - 1)]
        for before, candidate in enumerate(parameters[: position + 1]):
            if candidate.kind is inspect.Parameter.VAR_POSITIONAL:
                yield f"{candidate.name}_{position - before}"
                break
        else:
            yield parameter.name


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Leaves of nested containers, with names that are made of the places."""
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        parts = [prefix, *(re.sub(r"\W", "", pytree.keystr((key,))) for key in path)]
        yield "_".join(part for part in parts if part), leaf


def _unique(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for wanted, leaf in items:
        name, count = wanted, 1
        while name in found:
            name, count = f"{wanted}_{count}", count + 1
        found[name] = leaf
    return found


def _like(tensor: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if tensor.is_floating_point() and tensor.numel():
        wide = tensor.double()
        deviation = float(wide.std(correction=0)) or 1.0
        drawn = rng.normal(float(wide.mean()), deviation, shape)
        return torch.from_numpy(np.asarray(drawn)).to(tensor.dtype)
    if tensor.dtype == torch.bool or tensor.is_complex() or tensor.is_floating_point():
        return tensor
    values = tensor.unique()
    if values.numel() <= 2:
        return tensor
    return values[torch.from_numpy(np.asarray(rng.integers(0, values.numel(), shape)))]


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else ""
