"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from qbridge_core.runtime.logtexts import escaped

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN: Final = "?"
"""For what a broker cannot tell."""
_WIDE: Final = 10_000


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``; it gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def print_json(data: object) -> None:
    """Print one array or object."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def console() -> Console:
    """Where tables are drawn: as wide as the terminal; without colours, and never cut, where there is none."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_WIDE, no_color=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; numbers to the right, ``None`` as what is not known."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    found = [list(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        right = any(isinstance(row[number], int | float) for row in found)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in found:
        table.add_row(*(Text(cell(value)) for value in row))
    console().print(table)


def cell(value: object) -> str:
    """A value as a table shows it, in one line."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escaped(str(value))
