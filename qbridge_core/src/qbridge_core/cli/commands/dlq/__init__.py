"""``qbridge dlq``: dead letters taken in hand. One module for each command."""

from __future__ import annotations

from typing import Final

import click

from qbridge_core.cli.command import Group

_COMMANDS: Final = {
    "debug": "debug",
    "delete": "delete",
    "edit": "edit",
    "export": "exporting",
    "groups": "groups",
    "import": "importing",
    "list": "listing",
    "replay": "replay",
    "show": "show",
}


@click.group(cls=Group, where={name: f"{__name__}.{module}" for name, module in _COMMANDS.items()})
def command() -> None:
    """Look at dead letters, and send them back, mend, keep or delete them.

    QUEUE is a queue or its dead-letter queue: QUEUE.dead unless --dead says otherwise. What ends with .dead, or is
    called like a dead-letter queue and holds letters (failed_tasks), is taken for one itself.

    Filters choose letters: those with one of the values of each option that is given. Times are in UTC.
    """
