"""Queues of Amazon SQS: their URLs and limits, learned when a client uses one for the first time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from qbridge_core.backend import Check, Finding, UnroutableError, logger

if TYPE_CHECKING:
    from qbridge_kombu.transports.sqs_service import Service

log: Final = logger("qbridge.kombu")
LARGEST: Final = 2**20
"""Bytes that a message may have where its queue allows the most."""
_RETENTION: Final = 14 * 24 * 3600
_ATTRIBUTES: Final = {"MessageRetentionPeriod": str(_RETENTION), "MaximumMessageSize": str(LARGEST)}


@dataclass(frozen=True, slots=True)
class Queue:
    """What is known of a queue.

    Attributes:
        url: what the service calls it.
        largest: bytes that a message may have.
    """

    url: str
    largest: int


class Queues:
    """The queues that a client has used. Thread-safe; one that is gone is noticed by the next request."""

    def __init__(self) -> None:
        self._known: dict[str, Queue] = {}

    def find(self, service: Service, name: str) -> Queue | None:
        """A queue, after two requests when it is not known yet; None when it does not exist."""
        if name in self._known:
            return self._known[name]
        doing = f"find the queue {name!r}"
        try:
            url = service.ask("get_queue_url", doing, QueueName=name)["QueueUrl"]
            reply = service.ask("get_queue_attributes", doing, QueueUrl=url, AttributeNames=["MaximumMessageSize"])
        except UnroutableError:
            return None
        queue = self._known[name] = Queue(url, int(reply.get("Attributes", {}).get("MaximumMessageSize", LARGEST)))
        return queue

    def require(self, service: Service, name: str) -> Queue:
        """A queue.

        Raises:
            UnroutableError: it does not exist.
        """
        queue = self._known.get(name) or self.find(service, name)
        if queue is None:
            raise UnroutableError(f"the queue {name!r} does not exist; declare it first")
        return queue

    def create(self, service: Service, name: str) -> None:
        """Make a queue that keeps messages for as long as the service can; look at one that exists."""
        self._known.pop(name, None)
        if self.find(service, name) is None:
            service.ask("create_queue", f"create the queue {name!r}", QueueName=name, Attributes=_ATTRIBUTES)
            return
        found = self._attributes(service, name, "MessageRetentionPeriod", "RedrivePolicy")
        retention = int(found.get("MessageRetentionPeriod", _RETENTION))
        if retention < _RETENTION:
            log.warning(
                "the queue %r forgets messages after %.1f days, and what waits for longer is lost: set its "
                "MessageRetentionPeriod to %d (14 days)", name, retention / 86_400, _RETENTION,
            )  # fmt: skip
        if "RedrivePolicy" in found:
            log.info(
                "the queue %r has a redrive policy, %s: what was received so often and not deleted is moved by the "
                "service, without an explanation", name, found["RedrivePolicy"],
            )  # fmt: skip

    def findings(self, service: Service, name: str, check: Check) -> Iterator[Finding]:
        """What may cost messages of a queue that exists."""
        found = self._attributes(service, name, "MessageRetentionPeriod", "RedrivePolicy")
        retention = int(found.get("MessageRetentionPeriod", _RETENTION))
        change = f"aws sqs set-queue-attributes --queue-url {self.require(service, name).url} --attributes"
        if retention < _RETENTION:
            yield check.warning(
                f"the queue {name!r} forgets messages after {retention / 86_400:.1f} days",
                f"{change} MessageRetentionPeriod={_RETENTION}",
            )
        if "RedrivePolicy" in found:
            yield check.warning(
                f"the queue {name!r} has a redrive policy, {found['RedrivePolicy']}: what was received so often and "
                "not deleted is moved by the service, without an explanation, though it may run",
                f"{change} RedrivePolicy=",
            )

    def count(self, service: Service, name: str, attribute: str) -> int:
        """One of the numbers of a queue, about; 0 for one that does not exist."""
        if self.find(service, name) is None:
            return 0
        try:
            return int(self._attributes(service, name, attribute)[attribute])
        except UnroutableError:
            return 0

    def ask(self, service: Service, name: str, request: str, doing: str, **arguments: Any) -> Any:
        """Make a request about a queue.

        Raises:
            As :meth:`Service.ask`.
        """
        queue = self.require(service, name)
        with self._noticing_its_end(name):
            return service.ask(request, doing, QueueUrl=queue.url, **arguments)

    def ask_for_each(
        self,
        service: Service,
        name: str,
        request: str,
        doing: str,
        entries: Sequence[dict[str, Any]],
        seconds: float | None = None,
    ) -> list[dict[str, Any]]:
        """Make a request with entries, in tens; see :meth:`Service.ask_for_each`."""
        queue = self.require(service, name)
        failed: list[dict[str, Any]] = []
        with self._noticing_its_end(name):
            for start in range(0, len(entries), 10):
                failed += service.ask_for_each(request, doing, queue.url, entries[start : start + 10], seconds)
        return failed

    def _attributes(self, service: Service, name: str, *names: str) -> Mapping[str, str]:
        doing = f"look at the queue {name!r}"
        found: Mapping[str, str] = self.ask(
            service, name, "get_queue_attributes", doing, AttributeNames=list(names)
        ).get("Attributes", {})
        return found

    @contextmanager
    def _noticing_its_end(self, name: str) -> Iterator[None]:
        try:
            yield
        except UnroutableError:
            self._known.pop(name, None)
            raise
