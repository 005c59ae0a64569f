"""Sends dead letters back to where they came from, and keeps the order of those that stay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from qbridge_core.backend import SOURCE_QUEUE, UnroutableError, meta_text
from qbridge_rabbitmq.amqp import copies, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.dead_letters import broker_deaths, browse
from qbridge_rabbitmq.publish.publisher import LARGE, Publication
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.state.in_flight import Arrival

_PAGE: Final = 500
_TOGETHER: Final = 100


def replay(broker: ConnectedBroker, declared: Declarations, queue: str, target: str | None, limit: int | None) -> int:
    """Replay up to ``limit`` letters, a page at a time; how many went back.

    The letters of a page are taken without an acknowledgement, as for a listing, and each is acknowledged when its copy
    is confirmed. So what cannot be sent goes back to its place together with what is behind it.

    Raises:
        QBridgeError: the first letter that could not be sent.
    """
    waiting = broker.requests.call(f"queue {queue!r}", declared.count(queue))
    remaining = waiting if limit is None else min(limit, waiting)
    replayed = 0
    while replayed < remaining:
        with browse.held(broker, declared, queue, min(_PAGE, remaining - replayed)) as arrivals:
            if not arrivals:
                break
            page = arrivals[: remaining - replayed]
            for name, letters in groupby(page, key=lambda arrival: target or _source(arrival)):
                for part in _parts(list(letters)):
                    _send(broker, queue, name, part)
                    replayed += len(part)
    return replayed


def _send(broker: ConnectedBroker, queue: str, target: str, letters: Sequence[Arrival]) -> None:
    if not target:
        raise UnroutableError(f"a dead letter in {queue!r} does not say which queue it came from; give replay a target")
    room = broker.sender.room
    failed = broker.sender.send_each(
        [Publication("", target, copies.copy(one.properties, {}, most=room), one.body) for one in letters]
    )
    for position, letter in enumerate(letters):
        if position not in failed:
            letter.channel.acknowledge(letter)
    if failed:
        raise failed[min(failed)]


def _source(arrival: Arrival) -> str:
    meta = headers.read(arrival.properties).meta
    return meta_text(meta, SOURCE_QUEUE) or meta_text(broker_deaths.explain(arrival.properties), SOURCE_QUEUE)


def _parts(letters: list[Arrival]) -> Iterator[list[Arrival]]:
    """What goes out together: some letters, or a large one by itself."""
    part: list[Arrival] = []
    size = 0
    for letter in letters:
        if part and (len(part) >= _TOGETHER or size + len(letter.body) > LARGE):
            yield part
            part, size = [], 0
        part.append(letter)
        size += len(letter.body)
    yield part
