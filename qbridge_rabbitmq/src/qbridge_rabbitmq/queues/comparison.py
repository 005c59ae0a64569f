"""How a queue that is there differs from what is wanted. Nothing in AMQP says it, but declaring it once more does."""

from __future__ import annotations

from typing import Any, Final

from pika import exceptions

from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.queues import foreign
from qbridge_rabbitmq.queues.requests import Step, Steps

_MOST_DIFFERENCES: Final = 12


def compare(queue: str, alternatives: list[dict[str, Any]]) -> Steps[dict[str, Any]]:
    """How a queue that is there differs from the first of these arguments; in nothing if it has any of them.

    It fails when the queue is missing, and makes none.
    """
    yield passive_queue(queue)
    for arguments in alternatives:
        try:
            yield declare_queue(queue, arguments)
        except exceptions.ChannelClosedByBroker as exc:
            if exc.reply_code != errors.PRECONDITION_FAILED:
                raise
        else:
            return {}
    return (yield from differences(queue, alternatives[0]))


def differences(queue: str, wanted: dict[str, Any]) -> Steps[dict[str, Any]]:
    """How a queue differs from what was wanted. The broker tells one difference at a time, and only when asked."""
    found: dict[str, Any] = {}
    for _ in range(_MOST_DIFFERENCES):
        try:
            yield declare_queue(queue, foreign.arguments(wanted, found), **foreign.flags(found))
        except exceptions.ChannelClosedByBroker as exc:
            told = foreign.difference(exc.reply_text)
            if told is None or told[0] in found:
                break
            found[told[0]] = told[1]
        else:
            break
    return found


def declare_queue(queue: str, arguments: dict[str, Any], durable: bool = True, auto_delete: bool = False) -> Step:
    """Makes a queue, or finds it as it is wanted; otherwise the broker closes the channel."""
    return lambda ch, done: ch.queue_declare(
        queue, durable=durable, auto_delete=auto_delete, arguments=arguments, callback=done
    )


def passive_queue(queue: str) -> Step:
    """Looks whether a queue is there."""
    return lambda ch, done: ch.queue_declare(queue, passive=True, callback=done)
