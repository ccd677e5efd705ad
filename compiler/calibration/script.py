"""Functions of a user's script: ``script.py:function``."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.errors import BurnishError, InputFileError, UsageError


def load_function(script: str, function: str) -> Callable[..., Any]:
    """A function of a script, which may import what lies beside it.

    Raises:
        InputFileError: There is no such script.
        UsageError: It fails, or has no such function.
    """
    if not Path(script).is_file():
        raise InputFileError("no such script", at=script)
    spec = importlib.util.spec_from_file_location(f"burnish_script_{Path(script).stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with running(script, function):
        spec.loader.exec_module(module)
    found = getattr(module, function, None)
    if not callable(found):
        raise UsageError(f"{script} has no function {function!r}")
    return found  # type: ignore[no-any-return]


@contextmanager
def running(script: str, function: str) -> Iterator[None]:
    """The script's folder on the path; what it raises is the user's error.

    Raises:
        UsageError: The script failed.
    """
    folder = str(Path(script).resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    except BurnishError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(
            f"{script}:{function} failed: {type(error).__name__}: {error}", at=script
        ) from error
    finally:
        sys.path.remove(folder)
