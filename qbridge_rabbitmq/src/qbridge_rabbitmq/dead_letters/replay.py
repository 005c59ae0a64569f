"""Sends dead letters back, or deletes them, and keeps the order of those that stay.

One letter at a time: its copy is confirmed, and the broker has answered that the letter is gone, before the next one is
touched. So whoever dies on the way leaves one letter at most that is there twice.
"""

from __future__ import annotations

from collections.abc import Callable

from qbridge_core.backend import Chosen, Edit, MessageTooLargeError, UnroutableError, replay_headers
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.dead_letters import browse
from qbridge_rabbitmq.dead_letters.broker_deaths import letter_id, source_of
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.state.in_flight import Arrival


def replay(broker: ConnectedBroker, declared: Declarations, queue: str, target: str | None, limit: int | None) -> int:
    """Replay up to ``limit`` letters, a page at a time; how many went back.

    What cannot be sent goes back to its place together with what is behind it.

    Raises:
        QBridgeError: the first letter that could not be sent.
    """
    replayed = 0
    with browse.held(broker, declared, queue) as held:
        for page in held.pages(limit):
            for arrival in page:
                _send(broker, queue, target, arrival)
                held.remove(arrival)
                replayed += 1
    return replayed


def replay_chosen(
    broker: ConnectedBroker, declared: Declarations, queue: str, target: str | None, chosen: Chosen
) -> int:
    """Replay those that are named; how many went back.

    Raises:
        QBridgeError: the first letter that could not be sent.
    """
    return _each(broker, declared, queue, chosen, lambda one: _send(broker, queue, target, one, chosen.edit))


def delete(broker: ConnectedBroker, declared: Declarations, queue: str, chosen: Chosen) -> int:
    """Delete those that are named; how many there were.

    Raises:
        BrokerUnavailableError: the connection was lost; some may be there still.
    """
    return _each(broker, declared, queue, chosen, lambda _: None)


def _each(
    broker: ConnectedBroker, declared: Declarations, queue: str, chosen: Chosen, do: Callable[[Arrival], None]
) -> int:
    """Take out those that are named, each after something was done with it; how many."""
    done = 0
    if chosen.is_complete:
        return done
    with browse.held(broker, declared, queue) as held:
        for page in held.pages():
            for arrival in page:
                if chosen.take(letter_id(arrival)):
                    do(arrival)
                    held.remove(arrival)
                    done += 1
            if chosen.is_complete:
                break
    return done


def _send(broker: ConnectedBroker, queue: str, target: str | None, letter: Arrival, edit: Edit | None = None) -> None:
    content = headers.read(letter.properties)
    where = target or source_of(letter, content.meta)
    if not where:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    ours, room = replay_headers(content.meta, edit, content.message_id), broker.sender.room
    properties, body = letter.properties, letter.body
    if edit is not None:
        properties = copies.edited(properties, edit.headers, edit.message_id)
        body = body if edit.body is None else edit.body
    properties = copies.copy(properties, ours, most=room)
    if edit is not None and not copies.leaves_room(properties, room):
        raise MessageTooLargeError(f"the new headers for a letter of {queue!r} leave no room for an explanation")
    broker.sender.send([Publication("", where, properties, body)])
