"""What commands print: JSON for programs, tables for people."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from qbridge_core.runtime.logtexts import escaped

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN: Final = "?"
"""For what a broker cannot tell."""
_WIDE: Final = 10_000
_NOT_ASCII: Final = re.compile(r"[^\x20-\x7e]")


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--json``; it gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def print_json(data: object) -> None:
    """Print one array or object, in UTF-8 where the output can be that, otherwise in ASCII."""
    click.echo(json_text(data, indent=2, ascii_only=not _takes_utf_8()))


def print_json_array(items: Iterable[object]) -> None:
    """Print an array of which only one item is in memory at a time."""
    ascii_only, begin = not _takes_utf_8(), "["
    for item in items:
        text = json_text(item, indent=2, ascii_only=ascii_only)
        click.echo(f"{begin}\n  " + text.replace("\n", "\n  "), nl=False)
        begin = ","
    click.echo("[]" if begin == "[" else "\n]")


def print_json_line(data: object) -> None:
    """Print an object in one line, one of many."""
    click.echo(json_text(data, ascii_only=not _takes_utf_8()))


def json_text(data: object, *, indent: int | None = None, ascii_only: bool = False) -> str:
    """JSON in which no character is left that a terminal could take for an order."""
    text = json.dumps(data, indent=indent, ensure_ascii=ascii_only)
    return _NOT_ASCII.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    return character if character.isprintable() or character == "\n" else json.dumps(character)[1:-1]


def _takes_utf_8() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")


def on_terminal() -> bool:
    """Whether somebody sees the output."""
    return sys.stdout is not None and sys.stdout.isatty()


def console() -> Console:
    """Where tables are drawn: as wide as the terminal; without colours, and never cut, where there is none."""
    from rich.console import Console

    if on_terminal():
        return Console(highlight=False)
    return Console(highlight=False, width=_WIDE, no_color=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under their columns; numbers to the right, ``None`` as what is not known."""
    found = [list(row) for row in rows]
    numbers = [_has_numbers([row[place] for row in found]) for place in range(len(columns))]
    cells = [[cell(value) for value in row] for row in found]
    if not on_terminal():
        click.echo("\n".join(_plain(columns, cells, numbers)))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Two spaces between columns, as in a pipe, so that stats have room in 80. What is too long is folded, no number.
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for column, is_number in zip(columns, numbers, strict=True):
        table.add_column(column, justify="right" if is_number else "left", overflow="fold", no_wrap=is_number)
    for row in cells:
        table.add_row(*map(Text, row))
    console().print(table)


def _has_numbers(values: Sequence[object]) -> bool:
    """Whether a column is one of numbers, all of which may be unknown."""
    return any(isinstance(value, int | float) for value in values) or all(value is None for value in values)


def _plain(columns: Sequence[str], cells: Sequence[Sequence[str]], numbers: Sequence[bool]) -> Iterator[str]:
    """The lines of a table for a pipe or a file, two spaces between the columns; nothing has to be imported for it."""
    rows = [columns, *cells]
    widths = [max(len(row[place]) for row in rows) for place in range(len(columns))]
    for row in rows:
        parts = zip(row, widths, numbers, strict=True)
        yield "  ".join(text.rjust(width) if right else text.ljust(width) for text, width, right in parts).rstrip()


def counted(count: int, noun: str) -> str:
    """So many things, in words: the noun gets an s unless there is one."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def cell(value: object) -> str:
    """A value as a table shows it, in one line."""
    if value is None:
        return UNKNOWN
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else escaped(str(value))
