"""``qbridge purge``."""

from __future__ import annotations

import click

from qbridge_core.cli.asking import ask, log_deed, yes_option
from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.cli.output import counted
from qbridge_core.cli.presence import tell_doubts
from qbridge_core.contract.client import QueueClient
from qbridge_core.runtime.logtexts import escaped


@click.command(cls=Command)
@click.argument("queue")
@click.option("--delayed", is_flag=True, help="Delete what is delayed instead: sent for later, or retried later.")
@yes_option
@with_client
def command(client: QueueClient, queue: str, delayed: bool, yes: bool) -> None:
    """Delete the messages of QUEUE that wait.

    What workers hold stays, and what is delayed, too, unless that is what shall be deleted. QUEUE may be a dead-letter
    queue.
    """
    stats = client.count(queue)
    waiting, what = (stats.delayed, "delayed message") if delayed else (stats.ready, "message")
    where = "of" if delayed else "that waits in" if waiting == 1 else "that wait in"
    ask(f"Delete the {counted(waiting, what)} {where} {queue}?", yes)
    deleted = client.purge(queue, delayed=True) if delayed else client.purge(queue)
    log_deed(f"purged {queue}: {counted(deleted, what)} deleted")
    click.echo(escaped(f"deleted {counted(deleted, what)} of {queue}"))
    if not deleted:
        tell_doubts(client, queue)
