"""Which permissions a user lacks, found out by requests that the broker refuses in any case.

RabbitMQ looks at the permissions of a request first, and then at its arguments (rabbitmq.com/docs/access-control). So a
request that nobody may make tells the one from the other, and changes nothing: a queue with a negative TTL, a consumer
whose priority is a word, the end of a binding to an exchange that is not there.
"""

from __future__ import annotations

import re
import shlex
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from pika import exceptions

from qbridge_core.backend import (
    AuthenticationError,
    BrokerBlockedError,
    Check,
    Finding,
    PublishUnconfirmedError,
    QueueUse,
    UnroutableError,
    suspects_queue,
)
from qbridge_rabbitmq.amqp import errors, headers
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.publish.publisher import Publication
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.requests import Step, Steps
from qbridge_rabbitmq.recovery.poison_queue import lock_name

_DENIED: Final = re.compile(r"access to queue '.*' in vhost '.*' refused for user")
_PATIENCE: Final = 5.0
_ALARM: Final = "free memory or disk at the server, or add some; rabbitmqctl status shows which alarm it is"


def on_queues(broker: ConnectedBroker, endpoint: Endpoint, use: QueueUse, check: Check) -> Iterator[Finding]:
    """What a worker of a queue may not do: on the queue, its dead letters, its suspects and its delays."""
    needed = _needed(use)
    lacking = broker.requests.call(f"permissions on {use.queue!r}", _lacking(needed))
    if not lacking:
        yield check.ok(f"{_user(endpoint)} has {_told(needed)}")
        return
    said = _told(lacking)
    yield check.problem(f"{_user(endpoint)} lacks {said}: a worker cannot do its work", _grant(endpoint))


def to_publish(broker: ConnectedBroker, endpoint: Endpoint, check: Check) -> Iterator[Finding]:
    """Whether messages can be published now: one is, to a queue that does not exist, so that nobody gets it."""
    nowhere = Publication("", f"qbridge-probe-{uuid.uuid4().hex}", headers.fresh({}, None), b"")
    try:
        broker.sender.send([nowhere], _PATIENCE)
    except UnroutableError:
        yield check.ok("the broker takes messages, and returns what it has no queue for")
    except AuthenticationError as exc:
        yield check.problem(f"nothing can be published: {exc}", _grant(endpoint))
    except BrokerBlockedError as exc:
        yield check.problem(f"nothing can be published now: {exc}", _ALARM)
    except PublishUnconfirmedError as exc:
        yield check.problem(f"the broker confirms nothing: {exc}", _ALARM)


def _needed(use: QueueUse) -> dict[str, list[str]]:
    """What a worker declares, binds or publishes to, and consumes or declares with a way for dead letters."""
    side, delay = suspects_queue(use.queue), delays.name(use.queue, 0)
    return {
        "configure": [use.queue, use.letters, side, lock_name(side, "probe"), delay],
        "write": [use.queue, delay],
        "read": [use.queue, side, delay],
    }


def _told(rights: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{right} on {', '.join(map(repr, names))}" for right, names in rights.items())


def _lacking(needed: Mapping[str, Sequence[str]]) -> Steps[dict[str, list[str]]]:
    lacking: dict[str, list[str]] = {}
    for right, names in needed.items():
        for name in names:
            if (yield from _is_denied(_PROBES[right](name))):
                lacking.setdefault(right, []).append(name)
    return lacking


def _is_denied(step: Step) -> Steps[bool]:
    try:
        yield step
    except exceptions.ChannelClosedByBroker as exc:
        return exc.reply_code == errors.ACCESS_REFUSED and _DENIED.search(exc.reply_text) is not None
    return False


def _declare(name: str) -> Step:
    return lambda ch, done: ch.queue_declare(name, durable=True, arguments={"x-message-ttl": -1}, callback=done)


def _unbind(name: str) -> Step:
    return lambda ch, done: ch.queue_unbind(name, f"{name}.qb.nowhere", "probe", callback=done)


def _consume(name: str) -> Step:
    return lambda ch, done: ch.basic_consume(name, _ignore, arguments={"x-priority": "none"}, callback=done)


def _ignore(*_: object) -> None:
    """For what no consumer gets."""


_PROBES: Final[Mapping[str, Callable[[str], Step]]] = {"configure": _declare, "write": _unbind, "read": _consume}


def _user(endpoint: Endpoint) -> str:
    return f"user {endpoint.credentials[0]!r}"


def _grant(endpoint: Endpoint) -> str:
    vhost, user = shlex.quote(endpoint.vhost), shlex.quote(endpoint.credentials[0])
    return f"rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'"
