"""``qbridge declare``."""

from __future__ import annotations

import click

from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import default_dead_letter_queue


@click.command(cls=Command)
@click.argument("queue")
@click.option("--dead", metavar="QUEUE", help="Its dead-letter queue; without it QUEUE.dead.")
@with_client
def command(client: QueueClient, queue: str, dead: str | None) -> None:
    """Create QUEUE and its dead-letter queue where they are missing.

    What is there already is used as it is, never changed.
    """
    dead = dead or default_dead_letter_queue(queue)
    client.declare(queue, dead)
    click.echo(f"declared {queue} with the dead-letter queue {dead}")
