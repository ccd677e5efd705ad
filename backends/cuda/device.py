"""Which GPU this machine has, asked of the driver."""

from __future__ import annotations

import ctypes

from burnish.backends.cuda.arch import ARCHS
from burnish.errors import TargetUnavailableError

#: CUdevice_attribute: compute capability, major and minor.
_MAJOR, _MINOR = 75, 76


def device_arch() -> str:
    """The architecture of the first GPU, or the best of the table that it can run: ``sm_80``.

    Raises:
        TargetUnavailableError: There is no driver or no GPU, or it is older than the table.
    """
    hint = f"name the architecture to build for: --target cuda:sm_80 ({', '.join(ARCHS)})"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise TargetUnavailableError(
            "target cuda means this machine's GPU, and there is no NVIDIA driver", hint=hint
        ) from None
    device = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        raise TargetUnavailableError(
            "target cuda means this machine's GPU, and the driver finds none", hint=hint
        )
    numbers = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        numbers.append(value.value)
    capability = numbers[0] * 10 + numbers[1]
    # Newer GPUs run the PTX in the fat binary of an older one.
    fitting = [name for name, arch in ARCHS.items() if int(arch.capability) <= capability]
    if not fitting:
        raise TargetUnavailableError(
            f"the GPU has compute capability {numbers[0]}.{numbers[1]}, which is too old",
            hint=f"burnish builds for {', '.join(ARCHS)}",
        )
    return fitting[-1]
