"""Where reports are printed: stdout, as wide as their lines where nobody looks at a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

#: Width of tables in files and pipes: long node names stay on one line.
PIPE_WIDTH = 200


def print_table(table: Table) -> None:
    """Print a table to stdout; colours and box drawing as rich finds fit (NO_COLOR, a pipe)."""
    width = None if sys.stdout.isatty() else max(PIPE_WIDTH, shutil.get_terminal_size().columns)
    Console(highlight=False, width=width).print(table)


def print_counts(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a plain table, all columns but the first aligned to the right."""
    table = Table()
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row))
    print_table(table)


def print_line(text: str) -> None:
    """Print one line, never wrapped or marked up."""
    click.echo(text)
