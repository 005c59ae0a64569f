"""``qbridge pause``."""

from __future__ import annotations

import click

from qbridge_core.cli.asking import log_deed
from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.cli.presence import tell_doubts
from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.logtexts import escaped


@click.command(cls=Command)
@click.argument("queue")
@with_client
def command(client: QueueClient, queue: str) -> None:
    """Let workers take no more from QUEUE, until "resume".

    They stop within 5 seconds, wherever they run; what they run already they finish. The broker keeps the mark, so it
    stays over restarts of everything. Messages can be sent meanwhile.
    """
    client.pause(queue)
    log_deed(f"paused {queue}")
    click.echo(escaped(f"paused {queue}; qbridge resume {queue} lets it go on"))
    tell_doubts(client, queue)
