"""Sends dead letters back, or deletes them, and keeps the order of those that stay.

One letter at a time: its copy is confirmed, and the broker has answered that the letter is gone, before the next one is
touched. So whoever dies on the way leaves one letter at most that is there twice.
"""

from __future__ import annotations

from collections.abc import Callable

from qbridge_core.backend import (
    PREFETCH_BYTES,
    Chosen,
    Edit,
    MessageTooLargeError,
    UnroutableError,
    replay_headers,
)
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.dead_letters import browse
from qbridge_rabbitmq.dead_letters.broker_deaths import letter_id, source_of
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.state.in_flight import Arrival


def replay(broker: ConnectedBroker, declared: Declarations, queue: str, target: str | None, limit: int | None) -> int:
    """Replay up to ``limit`` letters of those that are there now; how many went back.

    What cannot be sent goes back to its place together with what is behind it.

    Raises:
        QBridgeError: the first letter that could not be sent.
    """
    waiting = broker.requests.call(f"queue {queue!r}", declared.count(queue))
    remaining = waiting if limit is None else min(limit, waiting)
    replayed = 0
    while replayed < remaining:
        doing = _Round(lambda letter: _send(broker, queue, target, letter))
        with browse.held(broker, declared, queue) as held:
            doing.go_through(held, lambda _: True, remaining - replayed)
        replayed += doing.done
        if not doing.may_go_on:
            break
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
    done, goes_on = 0, True
    while goes_on and not chosen.is_complete:
        doing = _Round(do)
        with browse.held(broker, declared, queue) as held:
            doing.go_through(held, lambda one: chosen.take(letter_id(one)), None, lambda: chosen.is_complete)
        done += doing.done
        goes_on = doing.may_go_on
    return done


class _Round:
    """One way through a queue, on which letters are taken out.

    Args:
        do: what to do with a letter before it is removed.

    Attributes:
        done: how many were taken out.
        may_go_on: there may be more of them; memory was full of those that had to wait until all was held that has to
            go back with them.
    """

    def __init__(self, do: Callable[[Arrival], None]) -> None:
        self.done = 0
        self.may_go_on = False
        self._do = do
        self._waiting: list[Arrival] = []

    def go_through(
        self,
        held: browse.Held,
        wanted: Callable[[Arrival], bool],
        most: int | None,
        is_complete: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take out what is wanted of the first ``most`` letters."""
        size = 0
        for page in held.pages(most):
            found = [arrival for arrival in page if wanted(arrival)]
            size += sum(len(arrival.body) for arrival in found)
            self._waiting += found
            if held.is_settled:
                self._take_out(held)
                size = 0
            if is_complete():
                break
            if size > PREFETCH_BYTES:
                self.may_go_on = True
                break
        held.keep_order()
        self._take_out(held)

    def _take_out(self, held: browse.Held) -> None:
        for arrival in self._waiting:
            self._do(arrival)
            held.remove(arrival)
            self.done += 1
        self._waiting.clear()


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
        bare = copies.copy(properties, copies.without_history(ours), most=room)
        if not copies.leaves_room(bare, room):
            raise MessageTooLargeError(f"the new headers for a letter of {queue!r} leave no room for an explanation")
    raw, properties = properties, copies.copy(properties, ours, most=room)
    if len(properties) > room:  # a foreign one that fills its frame goes back all the same
        properties = copies.copy(raw, {}, most=room)
    broker.sender.send([Publication("", where, properties, body)])
