"""``qbridge dlq import``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TextIO

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import letters, logged
from qbridge_core.cli.commands.dlq.options import Desk, on_letters
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.letters.jsonform import read
from qbridge_core.cli.output import json_option, print_json
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.errors import QBridgeError

_AT_ONCE: Final = 100
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024


@click.command(cls=Command)
@on_letters
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--skip", type=click.IntRange(min=0), default=0, help="Leave out so many lines at the beginning.")
@json_option
def command(desk: Desk, file: TextIO, skip: int, as_json: bool) -> None:
    """Put the letters that export has written into the dead-letter queue of QUEUE, which must exist.

    FILE is - or left out for standard input. They are listed, shown and sent back as the originals, at any broker, with
    ids of their own. Who imports a file twice has its letters twice. When a line cannot be imported it ends, and says
    how many lines before are confirmed: mend the line, and go on with --skip.

    With --json an object: queue (the dead-letter queue) and imported (how many).
    """
    lines = skip
    with logged(lambda done: f"imported {letters(done)} into {desk.dead}") as deed:
        try:
            for read_lines, some in _batches(_numbered(file, skip)):
                deed.do(desk.client.import_letters, desk.dead, some)
                lines = read_lines
        except (ValueError, QBridgeError) as exc:
            note = f"{letters(deed.done)} imported; once that is mended go on with --skip {lines}"
            if isinstance(exc, QBridgeError):
                exc.add_note(f"{note}: some behind line {lines} may be there")
                raise
            raise Failed(f"{exc}\n{note}") from exc
    if as_json:
        print_json({"queue": desk.dead, "imported": deed.done})
    else:
        click.echo(f"imported {letters(deed.done)} into {desk.dead}")


def _numbered(file: TextIO, skip: int) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(file, 1) if number > skip)


def _batches(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, list[DeadLetter]]]:
    """Letters, some at a time, and the number of the last line of each batch. What is before a bad line comes first."""
    batch: list[DeadLetter] = []
    last = size = 0
    for number, line in lines:
        if not line.strip():
            continue
        try:
            letter = read(line)
        except ValueError as exc:
            if batch:
                yield last, batch
            raise ValueError(f"line {number} is no letter: {exc}") from exc
        batch.append(letter)
        last, size = number, size + len(line)
        if len(batch) >= _AT_ONCE or size > _BYTES_AT_ONCE:
            yield last, batch
            batch, size = [], 0
    if batch:
        yield last, batch
