"""``qbridge dlq export``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import letters
from qbridge_core.cli.commands.dlq.options import Choice, Desk, filter_options, on_letters
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.letters.filters import Filters
from qbridge_core.cli.letters.jsonform import written
from qbridge_core.cli.output import json_text, print_json_line


@click.command(cls=Command)
@on_letters
@click.argument("ids", nargs=-1, metavar="[ID]...")
@filter_options
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A new file; without it standard output.",
)
def command(
    desk: Desk,
    ids: tuple[str, ...],
    filters: Filters,
    output: Path | None,
) -> None:
    """Write dead letters of QUEUE as JSON lines, from which import makes the same letters; they stay where they are.

    Each line is an object: id, task_id, message_id, reason, exception_type, exception_message, traceback, attempts,
    crashes, replays, first_failed_at, last_failed_at, sent_at, history, source_queue, worker, headers, and the body as
    text, or as body_base64 where it is none. A header that is no JSON is an object that names its kind: base64, time,
    decimal, table.
    """
    if ids and filters:
        raise click.UsageError("name letters or filter them, not both")
    if output is None and sys.stdout is None:
        raise click.UsageError("standard output is closed, so the letters would be written nowhere: give an --output")
    choice = Choice(ids, filters, everything=True)
    if output is None:
        count = _write(print_json_line, desk, choice)
    else:
        try:
            with output.open("x", encoding="utf-8") as file:
                count = _write(lambda data: file.write(f"{json_text(data)}\n"), desk, choice)
        except FileExistsError:
            raise click.UsageError(f"{output} is there already, and is not written over") from None
    click.echo(f"exported {letters(count)} of {desk.dead}", err=True)
    if ids and count < len(set(ids)):
        raise Failed(f"{desk.dead} does not have all letters that were named: {count} of {len(set(ids))}")


def _write(write: Callable[[object], object], desk: Desk, choice: Choice) -> int:
    count = 0
    for letter in choice.find(desk):
        write(written(letter))
        count += 1
    return count
