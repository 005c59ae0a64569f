"""All checks of a client, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from qbridge_core.backend import Check, Finding, Look, QueueUse, examine
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.checkup import limits, management, permissions
from qbridge_rabbitmq.checkup.queues import QueueCheckup
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.queues.declarations import Declarations
from qbridge_rabbitmq.queues.policies import Policies
from qbridge_rabbitmq.queues.requests import Steps

_OLDEST: Final = (3, 10)


def look(
    broker: ConnectedBroker,
    endpoint: Endpoint,
    declarations: Declarations,
    policies: Policies | None,
    uses: Sequence[QueueUse],
    timeout: float,
) -> list[Finding]:
    """Make all checks; see ``QueueClient.diagnose``."""
    looks = [*_of_the_server(broker, endpoint, declarations)]
    for use in uses:
        looks += _of_a_queue(broker, endpoint, declarations, policies, use)
    return examine(looks, timeout)


def _of_the_server(
    broker: ConnectedBroker, endpoint: Endpoint, declarations: Declarations
) -> Iterator[tuple[Check, Look]]:
    yield Check("server"), partial(_server, broker, endpoint, declarations)
    yield Check("publishing"), partial(permissions.to_publish, broker, endpoint)


def _of_a_queue(
    broker: ConnectedBroker,
    endpoint: Endpoint,
    declarations: Declarations,
    policies: Policies | None,
    use: QueueUse,
) -> Iterator[tuple[Check, Look]]:
    queue = QueueCheckup(broker, endpoint, declarations, use)
    options = endpoint.options
    yield Check("permissions", use.queue), partial(permissions.on_queues, broker, endpoint, use)
    yield Check("queue", use.queue), queue.work_queue
    yield Check("dead-letter queue", use.queue), queue.dead_letter_queue
    yield Check("policies", use.queue), partial(management.policies, policies, use)
    yield (
        Check("queue states", use.queue),
        partial(management.dead_queues, policies, endpoint, declarations.server_version, use),
    )
    yield Check("consumer_timeout", use.queue), partial(limits.consumer_timeout, options, queue, use)
    yield Check("prefetch", use.queue), partial(limits.prefetch, options, queue, use)


def _server(broker: ConnectedBroker, endpoint: Endpoint, declarations: Declarations, check: Check) -> Iterator[Finding]:
    version = declarations.server_version
    broker.requests.call("the broker", _round_trip())  # the version is from the time when the connection was made
    said = f"RabbitMQ {'.'.join(map(str, version))} answers at {endpoint}"
    if version < _OLDEST:
        yield check.problem(f"{said}; QBridge needs 3.10 or later", "upgrade the server")
    else:
        yield check.ok(said)


def _round_trip() -> Steps[None]:
    yield lambda ch, done: ch.basic_qos(callback=done)
