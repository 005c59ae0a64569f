"""``qbridge purge``."""

from __future__ import annotations

import click

from qbridge_core.cli.asking import ask, log_deed, yes_option
from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.contract.client import QueueClient


@click.command(cls=Command)
@click.argument("queue")
@yes_option
@with_client
def command(client: QueueClient, queue: str, yes: bool) -> None:
    """Delete the messages of QUEUE that wait.

    What workers hold, and what is delayed, stays. QUEUE may be a dead-letter queue.
    """
    waiting = client.stats(queue).ready
    ask(f"Delete the {waiting:,} messages that wait in {queue}?", yes)
    deleted = client.purge(queue)
    log_deed(f"purged {queue}: {deleted} messages deleted")
    click.echo(f"deleted {deleted:,} messages of {queue}")
