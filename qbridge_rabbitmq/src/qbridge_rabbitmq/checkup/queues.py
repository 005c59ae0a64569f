"""What a queue is like, compared with what this program would have declared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from qbridge_core.backend import (
    Check,
    Finding,
    QueueMismatchError,
    QueueUse,
    UnroutableError,
)
from qbridge_rabbitmq.amqp.errors import stream
from qbridge_rabbitmq.broker import ConnectedBroker
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.queues import foreign
from qbridge_rabbitmq.queues.comparison import compare
from qbridge_rabbitmq.queues.declarations import CONSUMER_TIMEOUT, TO_DECLARE, Declarations

_LOSES: Final = frozenset({"durable", "auto_delete", "x-expires", "x-message-ttl"})
_LENGTHS: Final = frozenset({"x-max-length", "x-max-length-bytes"})
_REFUSING: Final = ("reject-publish", "reject-publish-dlx")


class QueueCheckup:
    """The checks of one queue and its dead-letter queue. What the broker has told is not asked for twice.

    Args:
        broker: the client's.
        endpoint: whose options and virtual host count.
        declarations: what the client would declare.
        use: how the queue is used.
    """

    def __init__(self, broker: ConnectedBroker, endpoint: Endpoint, declarations: Declarations, use: QueueUse) -> None:
        self._broker = broker
        self._endpoint = endpoint
        self._use = use
        self._dead = use.letters
        self._wanted = declarations.work_arguments(use.queue, self._dead)
        self._wanted_dead = declarations.dead_letter_arguments()
        self._found: dict[str, Any] | None = None

    def work_queue(self, check: Check) -> Iterator[Finding]:
        """Its arguments: durable, limits, the dead-letter route."""
        return self._compared(check, self._use.queue, self._wanted, self._differences)

    def dead_letter_queue(self, check: Check) -> Iterator[Finding]:
        """The same for the dead letters."""
        return self._compared(check, self._dead, self._wanted_dead, lambda: self._ask(self._dead, self._wanted_dead))

    def lets_hold(self) -> bool:
        """Whether the broker lets a worker hold a message of the queue for as long as it likes.

        RabbitMQ does not compare this argument, so only a queue that is otherwise as QBridge declares it counts.

        Raises:
            QBridgeError: nobody knows.
        """
        return CONSUMER_TIMEOUT in self._wanted[0] and not self._differences()

    def _compared(
        self, check: Check, queue: str, wanted: list[dict[str, Any]], ask: Callable[[], dict[str, Any]]
    ) -> Iterator[Finding]:
        try:
            found = ask()
        except UnroutableError:
            yield check.no_queue(queue, self._use)
            return
        except QueueMismatchError as exc:
            yield check.problem(str(exc), "give the queue another name")
            return
        if found.get("x-queue-type") == "stream":
            yield check.problem(str(stream(queue)), "give the queue another name")
            return
        findings = [self._judged(check, queue, name, found, wanted[0]) for name in found]
        yield from (each for each in findings if each is not None)
        if not any(findings):
            yield check.ok(f"queue {queue!r} is as it should be")

    def _judged(
        self, check: Check, queue: str, name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]
    ) -> Finding | None:
        value = found[name]
        means = foreign.consequence(name, value)
        if not means:
            return None
        said = f"{name} is {'not set' if value is None else value} at queue {queue!r}: {means}"
        refuses = found.get("x-overflow", wanted.get("x-overflow")) in _REFUSING
        loses = name in _LOSES or (name in _LENGTHS and not refuses)
        return (check.problem if loses else check.warning)(said, self._renewed(queue))

    def _differences(self) -> dict[str, Any]:
        if self._found is None:
            self._found = self._ask(self._use.queue, self._wanted)
        return self._found

    def _ask(self, queue: str, wanted: list[dict[str, Any]]) -> dict[str, Any]:
        return self._broker.requests.call(f"queue {queue!r}", compare(queue, wanted), TO_DECLARE)

    def _renewed(self, queue: str) -> str:
        delete = f"rabbitmqctl delete_queue -p {shlex.quote(self._endpoint.vhost)} {shlex.quote(queue)}"
        return f"when it is empty: {delete} && {self._use.declaration}"
