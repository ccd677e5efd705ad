"""The command ``burnish``: its commands load late, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator

import click

from burnish import __version__
from burnish.errors import BurnishError

#: Command name to module; each module has a click command called ``command``.
COMMANDS: dict[str, tuple[str, str]] = {
    "compile": ("burnish.cli.compile", "Compile an ONNX model into an artifact."),
    "compare": ("burnish.cli.compare", "Compare an artifact or model with onnxruntime."),
    "bench": ("burnish.cli.bench", "Time an artifact or model, beside its peers."),
    "profile": ("burnish.cli.profile", "Time every kernel of an artifact or model."),
    "check": ("burnish.cli.check", "Check models against thresholds, for CI."),
    "run": ("burnish.cli.run", "Run an artifact on inputs from a file."),
    "inspect": ("burnish.cli.inspect", "Show what is in a model or an artifact."),
    "optimize": ("burnish.cli.optimize", "Rewrite an ONNX model into a faster ONNX model."),
    "quantize": ("burnish.cli.quantize", "Quantize an ONNX model into an ONNX model of 8 bits."),
    "runner": ("burnish.cli.runner", "Build a program that runs artifacts without Python."),
    "targets": ("burnish.cli.targets", "List the targets that can be compiled for."),
    "doctor": ("burnish.cli.doctor", "Check this machine and installation."),
}

_FATAL = (signal.SIGTERM, signal.SIGHUP)

#: What a shell shows for a process that Ctrl-C ended.
INTERRUPTED = 130


class _Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Help texts come from the table: no command is imported to list it.
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 bug, 2 usage or file, 3 model, 4 compile or run, 5 not available "
    "here, 10 accuracy, 11 latency, 12 size or memory, 13 precision or placement.",
)
@click.version_option(__version__, prog_name="burnish")
def cli() -> None:
    """Optimizing compiler for ONNX models."""


def _show_title(title: str) -> None:
    # click leaves colours out where stderr is no terminal, but does not know NO_COLOR.
    color = False if os.environ.get("NO_COLOR") else None
    click.secho(f"{title}: ", fg="red", bold=True, err=True, nl=False, color=color)


def show_error(error: BurnishError) -> None:
    """Print an error to stderr: what, where, how to fix it."""
    _show_title(error.title)
    click.echo(error.message or type(error).__name__, err=True)
    if error.at:
        click.echo(f"  at: {error.at}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _show_bug(error: BaseException) -> None:
    if os.environ.get("BURNISH_TRACEBACK"):
        traceback.print_exception(error, file=sys.stderr)
    _show_title("internal error")
    click.echo(f"{type(error).__name__}: {error}", err=True)
    click.echo(
        "hint: this is a bug in burnish. Please report it with the output of "
        "'burnish doctor' and of this command with BURNISH_TRACEBACK=1 set",
        err=True,
    )


@contextlib.contextmanager
def _cleaning_up_when_killed() -> Iterator[None]:
    """Make SIGTERM and SIGHUP leave through the code that removes what is half-written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    # nohup ignores SIGHUP, and that has to stay so.
    caught = [n for n in _FATAL if signal.getsignal(n) is not signal.SIG_IGN]
    saved = {n: signal.signal(n, leave) for n in caught}
    try:
        yield
    finally:
        for number, handler in saved.items():
            signal.signal(number, handler)


def main(args: list[str] | None = None) -> int:
    """Run the command line; returns the exit code (see the epilog of ``burnish --help``)."""
    try:
        with _cleaning_up_when_killed():
            result = cli.main(args=args, prog_name="burnish", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BurnishError as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        # The reader of a pipe (head, less) went away: nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        _show_bug(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
