"""The operator table on the emulated CUDA device: single operators, many in one build."""

from __future__ import annotations

import importlib
import json
from typing import Any

import tvm

from burnish.backends.cuda import codegen, toolkit
from burnish.backends.cuda.arch import ARCHS
from burnish.backends.cuda.te_schedule import schedule_te
from burnish.backends.te_graph import te_graph
from burnish.backends.te_table import NodeKernel
from burnish.ir import Node
from burnish.lowering import registry
from burnish.lowering.te_context import Symbols
from tests.support.cuda_emulator.build import compile_cuda
from tests.support.node_kernels import Built, Case, check, node_of

ARCH = ARCHS["sm_80"]


class OnDevice:
    """A module whose functions take host arrays."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getitem__(self, name: str) -> Any:
        function = self.module[name]

        def call(*arguments: Any) -> None:
            device = tvm.cuda(0)
            moved = [
                tvm.runtime.tensor(a.numpy(), device) if hasattr(a, "numpy") else a
                for a in arguments
            ]
            function(*moved)
            device.sync()
            for host, other in zip(arguments, moved, strict=True):
                if hasattr(host, "numpy"):
                    host.copyfrom(other.numpy())

        return call


def kernel_of(node: Node, name: str) -> NodeKernel:
    """The kernel of a plain operator."""
    graph = te_graph(node, Symbols())
    return NodeKernel(
        schedule_te(graph.results, graph.placeholders, name), graph.inputs, graph.outputs
    )


def build(cases: list[Case]) -> Built:
    """Compile the kernels of all cases in one module."""
    toolkit.compile_cuda = compile_cuda
    kernels: list[Any] = []
    functions: dict[str, Any] = {}
    for index, case in enumerate(cases):
        try:
            node = node_of(case)
            built = kernel_of(node, f"case{index}")
            name = f"case{index}"
            functions[name] = built.kernel.func.with_attr("global_symbol", name)
            kernels.append((case, node, built))
        except Exception as error:
            kernels.append(error)
    module = codegen.build_kernels(tvm.IRModule(functions), ARCH.target)
    return Built(OnDevice(module), kernels)


def run(table: str) -> None:
    """Check the cases of ``tests.compiler.test_lowering_*`` and print what failed, as JSON."""
    cases = [
        case
        for case in importlib.import_module(table).CASES
        if not getattr(registry.find(node_of(case)), "kernel", True)
    ]
    built, failed = build(cases), {}
    for index, case in enumerate(cases):
        try:
            check(built, index, case)
        except Exception as error:
            failed[case.label()] = f"{type(error).__name__}: {str(error)[:300]}"
    print(json.dumps({"cases": len(cases), "failed": failed}))
