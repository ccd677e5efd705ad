"""oneDNN's operations: finding and loading the shared libraries that have them.

They are two: oneDNN's own, which comes with the package ``onednn-cpu-gomp``, and burnish's, which
registers the operations with TVM's runtime. Both are loaded only for models that use them, and
privately: other packages, torch among them, have a oneDNN of another version inside.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import platform
import sys
from pathlib import Path

from burnish.errors import TargetUnavailableError
from burnish.runtime import library

#: File name of burnish's library with the operations, beside the runtime library.
LIBRARY_NAME = "libburnish_onednn.so"
#: oneDNN's own, and the package that it comes with.
DNNL_NAME = "libdnnl.so.3"
PACKAGE = "onednn-cpu-gomp"


def libraries() -> tuple[Path, Path]:
    """The library of oneDNN and burnish's with its operations, in the order of loading.

    Raises:
        TargetUnavailableError: One of them is not installed.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise TargetUnavailableError(
            "oneDNN's operations are for Linux on x86-64 only",
            hint="compile with --library none",
        )
    dnnl = _dnnl()
    if dnnl is None:
        raise TargetUnavailableError(
            f"oneDNN is not installed: the package {PACKAGE} with {DNNL_NAME} is missing",
            hint=f"pip install {PACKAGE}==2023.2.0, or compile with --library none",
        )
    ours = library.library_path().with_name(LIBRARY_NAME)
    if not ours.is_file():
        raise TargetUnavailableError(
            f"burnish was built without oneDNN: {LIBRARY_NAME} is missing",
            at=str(ours.parent),
            hint="pip install onednn-devel-cpu-gomp==2023.2.0 and install burnish again (in a "
            "checkout: python -m burnish.runtime.build), or compile with --library none",
        )
    return dnnl, ours


def _dnnl() -> Path | None:
    try:
        files = importlib.metadata.files(PACKAGE) or ()
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(f.locate())) for f in files if f.name == DNNL_NAME)
    return next((path.resolve() for path in paths if path.is_file()), None)


@functools.cache
def load() -> None:
    """Load the libraries; models with oneDNN's operations can be loaded from then on.

    Raises:
        TargetUnavailableError: One of them is missing or cannot be loaded.
    """
    dnnl, ours = libraries()
    library.native()
    for path in (dnnl, ours):
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise TargetUnavailableError(
                f"oneDNN cannot be loaded: {error}",
                at=str(path),
                hint="if libgomp.so.1 is missing, install it (Debian, Ubuntu: apt install "
                "libgomp1), or compile with --library none",
            ) from None


def load_for(names: tuple[str, ...]) -> None:
    """Load the libraries that an artifact names.

    Raises:
        TargetUnavailableError: One is not known, missing or cannot be loaded.
    """
    for name in names:
        if name != "onednn":
            raise TargetUnavailableError(
                f"the model was compiled with the library {name}, which this burnish does not know",
                hint="load it with the burnish that compiled it, or compile the model again",
            )
        load()
