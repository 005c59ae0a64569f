"""``qbridge dlq groups``."""

from __future__ import annotations

from typing import Final

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.options import Desk, filter_options, on_letters
from qbridge_core.cli.letters.filters import Filters
from qbridge_core.cli.letters.grouping import groups_of
from qbridge_core.cli.letters.times import shown
from qbridge_core.cli.output import json_option, print_json, print_table

_COLUMNS: Final = ("letters", "exception", "raised in", "first seen (UTC)", "last seen (UTC)", "example")


@click.command(cls=Command)
@on_letters
@filter_options
@json_option
def command(desk: Desk, filters: Filters, as_json: bool) -> None:
    """Count the dead letters of QUEUE by what went wrong, the most frequent first.

    A group has one type of exception, raised in one place: the innermost frame that is not a library's. The example is
    the newest letter of it.

    With --json an array of objects: exception_type (or the reason, where there was none), place, count, replayed,
    first_seen, last_seen, example, example_message.
    """
    groups = groups_of(filter(filters.accept, desk.letters()))
    if as_json:
        print_json([group.as_json() for group in groups])
    elif not groups:
        click.echo(desk.nothing(filters), err=True)
    else:
        print_table(
            _COLUMNS,
            (
                (each.count, each.what, each.place, shown(each.first_seen), shown(each.last_seen), each.example)
                for each in groups
            ),
        )
