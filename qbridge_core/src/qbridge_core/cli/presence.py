"""What to say of a queue in which nothing is, and which perhaps does not exist: most often a slip in its name."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import click

from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.errors import QBridgeError, UnsupportedError
from qbridge_core.runtime.logtexts import escaped

_SUFFIX: Final = default_dead_letter_queue("")


def tell_doubts(client: QueueClient, queue: str) -> None:
    """Say on standard error that a queue which somebody has named does not exist, or perhaps not.

    No request of a client asks whether a queue is there. So this goes by what can be seen without changing anything: a
    list of the queues, where the broker gives one, and else the dead-letter queue, which most often came with it.

    Args:
        client: a connected client.
        queue: a name that somebody has given.
    """
    with suppress(QBridgeError):  # what was asked for is done
        if text := _doubt_about_any(client, queue):
            click.echo(escaped(text), err=True)


def _doubt_about_any(client: QueueClient, queue: str) -> str:
    stats = client.describe(queue)
    if any((stats.ready, stats.unsettled, stats.delayed, stats.dead, stats.consumers)):
        return ""
    if known := listed(client):
        return "" if queue in known else f"there is no queue {queue!r}"
    return doubt_about(client, queue)


def doubt_about(client: QueueClient, queue: str) -> str:
    """A sentence about an empty queue of a broker that lists none, or ``""``.

    Raises:
        QBridgeError: the broker cannot be asked.
    """
    if "dead" not in client.capabilities.details:
        return ""
    if queue.endswith(_SUFFIX):
        there = client.stats(queue.removesuffix(_SUFFIX)).dead is not None
        return "" if there else f"there is no queue {queue!r}"
    if client.stats(queue).dead is not None:
        return ""
    dead = default_dead_letter_queue(queue)
    return f"is there a queue {queue!r}? It holds nothing, and there is no {dead!r}: qbridge doctor {queue} tells"


def listed(client: QueueClient) -> dict[str, str | None]:
    """The queues that the broker lists; none where it cannot.

    Raises:
        QBridgeError: it cannot be asked.
    """
    with suppress(UnsupportedError):
        return client.queues()
    return {}
