"""Lists dead letters: some from the front, or what is behind one of them."""

from __future__ import annotations

from qbridge_core.backend import DeadLetter, LettersGoneError
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.dead_letters import browse
from qbridge_rabbitmq.dead_letters.broker_deaths import dead_letter, letter_id
from qbridge_rabbitmq.queues.declarations import Declarations


def look(broker: ConnectedBroker, declared: Declarations, queue: str, limit: int) -> list[DeadLetter]:
    """Up to ``limit`` letters from the front of a queue; none when it does not exist.

    Raises:
        BrokerUnavailableError: no connection, or it was lost meanwhile, or the broker does not deliver what is ready.
    """
    letters: list[DeadLetter] = []
    with browse.held(broker, declared, queue) as held:
        for page in held.pages(limit, sized=False):
            letters += map(dead_letter, page)
    return letters[:limit]


def look_behind(
    broker: ConnectedBroker, declared: Declarations, queue: str, limit: int, after: str
) -> list[DeadLetter]:
    """The same behind a letter; the broker does not know places, so all before it are taken and given back.

    Raises:
        BrokerUnavailableError: as :func:`look`.
        LettersGoneError: it is not there.
    """
    letters: list[DeadLetter] = []
    found = False
    with browse.held(broker, declared, queue) as held:
        for page in held.pages():
            for arrival in page:
                if not found:
                    found = letter_id(arrival) == after
                elif len(letters) < limit:
                    letters.append(dead_letter(arrival))
            if len(letters) >= limit:
                break
    if not found:
        raise LettersGoneError([after])
    return letters
