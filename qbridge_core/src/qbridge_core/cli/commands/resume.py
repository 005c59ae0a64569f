"""``qbridge resume``."""

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
    """Let workers take from QUEUE again what "pause" has kept from them."""
    client.resume(queue)
    log_deed(f"resumed {queue}")
    click.echo(escaped(f"resumed {queue}"))
    tell_doubts(client, queue)
