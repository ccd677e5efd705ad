"""Options and output that commands share."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from burnish.errors import InputFileError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from burnish.runtime import CompiledModel

F = TypeVar("F", bound=Callable[..., Any])


def model_argument(function: F) -> F:
    """The model as an argument, or by ``-m/--model`` as in other tools."""
    function = click.argument("model", required=False)(function)
    return click.option("-m", "--model", "model_option", help="The model, instead of MODEL.")(
        function
    )


def pick_model(model: str | None, option: str | None, what: str = "MODEL") -> str:
    """The one model that was given.

    Raises:
        UsageError: None or two were given.
        InputFileError: There is no such file.
    """
    if model and option:
        raise UsageError(f"two models: {model} and {option}", hint="leave one of them out")
    path = model or option
    if not path:
        context = click.get_current_context(silent=True)
        command = context.command_path if context is not None else "burnish COMMAND"
        raise UsageError(f"missing argument {what}", hint=f"{command} --help shows the form")
    if not Path(path).exists():
        raise InputFileError("no such file", at=path, hint=f"paths are relative to {Path.cwd()}")
    return path


def emit_json(data: Any, where: str | None) -> None:
    """Write results as JSON to a file, or to stdout for ``-``."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    if where is None or where == "-":
        click.echo(text)
        return
    try:
        Path(where).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputFileError(f"cannot write the results: {error.strerror}", at=where) from error


def check_output_path(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Refuse a file that cannot be written now, not after minutes of work."""
    if value and value != "-":
        folder = Path(value).absolute().parent
        if Path(value).is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise InputFileError("cannot write the results", at=value, hint="choose another file")
    return value


def json_option(function: F) -> F:
    """``--json FILE`` or ``--json -``."""
    return click.option(
        "--json",
        "json_path",
        metavar="FILE",
        callback=check_output_path,
        help="Write the results as JSON to FILE; - is stdout.",
    )(function)


def threads_option(function: F) -> F:
    """``--threads N``."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Threads per call; default: the CPUs that this process may use.",
    )(function)


def inputs_options(function: F) -> F:
    """``--inputs``, or ``--seed`` and ``--input-shapes`` of inputs that are drawn."""
    for option in (
        click.option(
            "--input-shapes",
            multiple=True,
            metavar="NAME:1x3x224x224",
            help="Shapes of the inputs that are drawn.",
        ),
        click.option(
            "--seed", default=0, show_default=True, help="Seed of the inputs that are drawn."
        ),
        click.option(
            "--inputs", metavar="F.npz", help="Arrays by input name; default: drawn by --seed."
        ),
    ):
        function = option(function)
    return function


def load_npz(path: str) -> dict[str, Any]:
    """Arrays of an ``.npz`` file by name.

    Raises:
        InputFileError: It is missing, or no npz file.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as data:
            if not hasattr(data, "files"):
                raise ValueError("not an .npz archive")
            return {name: data[name] for name in data.files}
    except FileNotFoundError:
        raise InputFileError("no such file", at=path) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputFileError(
            f"not a readable .npz file: {error}", at=path, hint="write it with numpy.savez"
        ) from error


def save_npz(path: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to an ``.npz`` file, all or nothing.

    Raises:
        InputFileError: The file cannot be written.
    """
    from burnish.npz import write_npz

    partial = f"{path}.partial"
    try:
        write_npz(partial, arrays)
        os.replace(partial, path)
    except OSError as error:
        raise InputFileError(f"cannot write the outputs: {error.strerror}", at=path) from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def number_shapes(items: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """``--input-shapes`` of inputs that are drawn: every dim is a number.

    Raises:
        UsageError: A dim is a name or a range.
    """
    from burnish.options import parse_input_shapes

    shapes: dict[str, tuple[int, ...]] = {}
    for name, dims in parse_input_shapes(items).items():
        sizes = tuple(d for d in dims if isinstance(d, int))
        if len(sizes) != len(dims):
            raise UsageError(f"the shape of {name} must be numbers", hint=f"{name}:1x128")
        shapes[name] = sizes
    return shapes


def parse_tolerances(text: str | None, option: str) -> float | None:
    """A tolerance as a number."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{option} is not a number: {text!r}") from None
    if value < 0:
        raise UsageError(f"{option} must not be negative: {text}")
    return value


def on_terminal() -> bool:
    """Whether progress may be drawn on stderr: somebody looks at it, and it can move its cursor."""
    return sys.stderr.isatty() and not os.environ.get("CI") and os.environ.get("TERM") != "dumb"


def open_subject(path: str, target: str = "x86", threads: int | None = None) -> CompiledModel:
    """Load an artifact, or compile a model with progress on stderr."""
    import burnish
    from burnish.artifact import is_artifact
    from burnish.cli.progress import show_progress

    if is_artifact(Path(path)):
        return burnish.load(path, threads=threads)
    with show_progress() as progress:
        return burnish.compile(path, target=target, threads=threads, progress=progress)
