"""Borrowing a module from a training loop: afterwards everything is as it was."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from burnish.errors import UsageError


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The user's module, without what ``torch.compile`` and data parallelism put around it."""
    parallel = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(module, parallel):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), torch.nn.Module):
            module = inner
        else:
            return module


def on_cpu(module: torch.nn.Module) -> torch.nn.Module:
    """The module itself if it is on the CPU; otherwise a copy there, while it stays where it is.

    Raises:
        UsageError: Parameters have no values yet, or are spread over processes.
    """
    tensors = [*module.parameters(), *module.buffers()]
    for tensor in tensors:
        if isinstance(tensor, torch.nn.parameter.UninitializedTensorMixin):
            raise UsageError(
                "the module has parameters without a shape",
                at=type(module).__name__,
                hint="call it once: lazy modules take their shapes from the first input",
            )
        if tensor.device.type == "meta" or hasattr(tensor, "device_mesh"):
            raise UsageError(
                "the module's parameters are not in this process",
                at=type(module).__name__,
                hint="gather a sharded module, or materialize one on the meta device, first",
            )
    if not any(_is_elsewhere(tensor) for tensor in tensors):
        return module
    # deepcopy takes what is in the memo for copied: no second copy is made on the device.
    memo: dict[int, Any] = {}
    for tensor in tensors:
        moved = tensor.detach().to("cpu", copy=True)
        if isinstance(tensor, torch.nn.Parameter):
            moved = torch.nn.Parameter(moved, requires_grad=tensor.requires_grad)
        memo[id(tensor)] = moved
    with _plain_forward(module):
        return copy.deepcopy(module, memo)


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    return bool(tensor.device.type != "cpu")


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Within, the module is in eval mode, without gradients, autocast and fused attention.

    Afterwards the mode of every submodule, torch's modes, and the states of the random number
    generators of torch, NumPy and Python are what they were.
    """
    modes = [(part, part.training) for part in module.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(same_random_numbers())
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(_plain_forward(module))
        # Modules may override train() to do more than to set the flag.
        module.eval()
        # The fused layers of torch.nn.Transformer have no ONNX form.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            module.train(dict(modes)[module])
            for part, training in modes:
                part.training = training


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Afterwards the generators of torch, NumPy and Python go on as if nothing had been drawn."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the user's, not ours
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextlib.contextmanager
def _plain_forward(module: torch.nn.Module) -> Iterator[None]:
    """Put aside the ``forward`` that accelerate wraps around a module for mixed precision."""
    attributes = module.__dict__
    if "_original_forward" not in attributes or "forward" not in attributes:
        yield
        return
    wrapped, original = attributes.pop("forward"), attributes["_original_forward"]
    if getattr(original, "__func__", None) is not type(module).forward:
        attributes["forward"] = original
    try:
        yield
    finally:
        attributes["forward"] = wrapped


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's exporter from writing to the terminal: what matters is in its exceptions."""
    # Many of its modules have loggers with levels of their own.
    names = [n for n in logging.root.manager.loggerDict if n.startswith(("torch", "onnxscript"))]
    loggers = [logging.getLogger(name) for name in ("torch.onnx", *names)]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
