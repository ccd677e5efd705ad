"""Calls a function in a process that has an emulated CUDA device."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from tests.support.cuda_emulator.build import libraries


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that finds the emulated CUDA libraries instead of real ones.

    Args:
        more: Further variables, such as ``CUDA_EMULATOR_DEVICES="0"``.
    """
    path = os.pathsep.join(filter(None, [str(libraries()), os.environ.get("LD_LIBRARY_PATH")]))
    return os.environ | {"LD_LIBRARY_PATH": path} | more


def on_device(function: str, *arguments: object, timeout: float = 300, **more: str) -> str:
    """Run ``module:function`` in a process with an emulated device.

    A kernel that reads or writes behind the end of an allocation ends that process.

    Args:
        function: What to call.
        arguments: Passed to it as text.
        timeout: Seconds.
        more: Further environment variables.

    Returns:
        What it printed.

    Raises:
        AssertionError: It failed; with the end of its output.
    """
    command = [sys.executable, "-m", "tests.support.cuda_emulator", function]
    result = subprocess.run(
        [*command, *map(str, arguments)],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    code = result.returncode
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    assert code == 0, (
        f"{function} ended with {how}:\n{result.stdout[-2000:]}{result.stderr[-4000:]}"
    )
    return result.stdout
