"""Which dead-letter queue is meant by the name of a queue."""

from __future__ import annotations

import re
from typing import Final

from qbridge_core.cli.exits import WrongUsage
from qbridge_core.contract.checks import check_queue_name
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter, Reason
from qbridge_core.contract.names import default_dead_letter_queue

_SUFFIX: Final = default_dead_letter_queue("")
_CALLED_SO: Final = re.compile(r"dead|dlq|dlx|fail|letter|reject|error|poison|graveyard", re.IGNORECASE)


def dead_letter_queue(client: QueueClient, queue: str, dead: str | None = None) -> str:
    """The dead-letter queue that somebody means.

    What ends with ``.dead`` is one. Else it is ``<queue>.dead``, unless that holds nothing and the queue is called like
    a dead-letter queue itself (``failed_tasks``) and holds what says that it failed. The messages of a queue of tasks
    must not be taken for letters: who deletes those deletes work.

    Args:
        client: a connected client.
        queue: what was typed.
        dead: what was said to be the queue's dead-letter queue.

    Raises:
        WrongUsage: the queue is called like a dead-letter queue, but its first message has never failed.
        ConfigurationError: no queue can have this name.
    """
    check_queue_name(queue)
    if dead is not None:
        return check_queue_name(dead)
    usual = default_dead_letter_queue(queue)
    if queue.endswith(_SUFFIX):
        return queue
    if not _CALLED_SO.search(queue) or _holds(client, usual):
        return usual
    if client.capabilities.browse and any(not says_why(letter) for letter in client.dead_letters(queue, 1)):
        raise WrongUsage(
            f"is {queue} a dead-letter queue? Its first message has never failed, and {usual} is empty: if it is one, "
            f"add --dead {queue}"
        )
    return queue


def says_why(letter: DeadLetter) -> bool:
    """Whether anything is known of how it became a letter."""
    return bool(letter.reason is not Reason.REJECTED or letter.source_queue or letter.exception_message)


def nothing_there(client: QueueClient, queue: str, dead: str) -> str:
    """What to say of an empty dead-letter queue; of one that does not exist, which was perhaps not meant, more."""
    if dead != default_dead_letter_queue(queue) or "dead" not in client.capabilities.details:
        return f"no letters in {dead}"
    if client.stats(queue).dead is not None:
        return f"no letters in {dead}"
    return (
        f"no letters in {dead}, which does not exist: where {queue} has a dead-letter queue of another name, or is "
        "one, name that with --dead"
    )


def _holds(client: QueueClient, queue: str) -> bool:
    stats = client.count(queue)
    return stats.ready + stats.in_flight + stats.delayed > 0
