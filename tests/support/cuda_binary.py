"""What is in a compiled CUDA model: its fat binaries, and the machine code of each kernel."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")
_USAGE = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class KernelCode:
    """One kernel.

    Attributes:
        registers: Of a thread.
        stack: Bytes of a thread's stack: registers that did not fit.
        shared: Bytes of a block's shared memory.
        instructions: How often each instruction occurs, by its full name.
    """

    registers: int
    stack: int
    shared: int
    instructions: Counter[str]

    def count(self, prefix: str) -> int:
        """Instructions whose names begin so."""
        return sum(n for name, n in self.instructions.items() if name.startswith(prefix))


@functools.cache
def tools() -> Path | None:
    """Folder of cuobjdump and nvdisasm, from the Python packages or from the toolkit."""
    found = importlib.util.find_spec("nvidia")
    folders = (
        [Path(p) / "cu13" / "bin" for p in (found.submodule_search_locations or ())]
        if found
        else []
    )
    path = shutil.which("cuobjdump")
    folders += [Path(path).parent] if path else []
    return next(
        (f for f in folders if (f / "cuobjdump").exists() and (f / "nvdisasm").exists()), None
    )


def missing_tools() -> str:
    """Why machine code cannot be read here; empty if it can."""
    return "" if tools() else "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"


def fat_binaries(library: Path) -> Iterator[bytes]:
    """The fat binaries in a shared library."""
    data = library.read_bytes()
    at = data.find(_MAGIC)
    while at >= 0:
        _, _, header, size = _HEADER.unpack_from(data, at)
        yield data[at : at + header + size]
        at = data.find(_MAGIC, at + header + size)


def _run(*arguments: str) -> str:
    folder = tools()
    assert folder is not None
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(
        [str(folder / "cuobjdump"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout


def kernels(library: Path) -> dict[str, KernelCode]:
    """The machine code of every kernel, by name without TVM's suffix."""
    found: dict[str, KernelCode] = {}
    for binary in fat_binaries(library):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "kernels.fatbin")
            path.write_bytes(binary)
            usage, sass = _run("-res-usage", str(path)), _run("-sass", str(path))
        instructions = {
            re.split(r"\s", part.strip(), maxsplit=1)[0]: Counter(
                re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", part, re.M)
            )
            for part in sass.split("Function :")[1:]
        }
        for name, registers, stack, shared, local in _USAGE.findall(usage):
            found[name.removesuffix("_kernel")] = KernelCode(
                int(registers), int(stack) + int(local), int(shared), instructions[name]
            )
    return found
