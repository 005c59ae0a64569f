"""What a client finds out about its broker and its queues for those who look for what will hurt them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from qbridge_core.backend import (
    Check,
    ConfigurationError,
    Finding,
    Look,
    QueueUse,
    examine,
)
from qbridge_kombu.queues.leases import Leases
from qbridge_kombu.state.context import Context
from qbridge_kombu.transports.session import KombuSession


class Checkup:
    """The checks of one connected client. Thread-safe."""

    def __init__(self, context: Context, leases: Leases) -> None:
        self._context = context
        self._leases = leases

    def look(self, uses: Sequence[QueueUse], timeout: float) -> list[Finding]:
        """Make all checks; see ``QueueClient.diagnose``."""
        looks: list[tuple[Check, Look]] = [(Check("server"), self._server), (Check("loss"), self._loss)]
        for use in uses:
            looks += self._of_a_queue(use)
        return examine(looks, timeout)

    def _of_a_queue(self, use: QueueUse) -> Iterator[tuple[Check, Look]]:
        yield Check("permissions", use.queue), self._permissions
        yield Check("queue", use.queue), partial(self._queue, use, use.queue)
        yield Check("dead-letter queue", use.queue), partial(self._queue, use, use.letters)
        yield Check("lease", use.queue), partial(self._lease, use)

    def _server(self, check: Check) -> Iterator[Finding]:
        url = self._context.transport.url
        self._context.ask(lambda _: None, f"reach {url}")
        yield check.ok(f"a connection to {url} is there")

    def _loss(self, check: Check) -> Iterator[Finding]:
        scheme = self._context.transport.url.scheme
        if self._context.transport.keeps_unacknowledged:
            yield check.ok(f"{scheme}:// keeps what is not acknowledged")
        else:
            yield check.warning(
                f"{scheme}:// takes a message from its broker when a worker receives it: what a worker holds is lost "
                "when it is killed (allow_loss)",
                "use a broker that keeps it: amqp://, redis:// or kombu+sqs://",
            )

    def _permissions(self, check: Check) -> Iterator[Finding]:
        yield check.not_checked(
            f"{self._context.transport.url.scheme}:// cannot try out what its user may do, nor compare a queue with "
            "what is wanted",
            "on RabbitMQ and Redis connect with amqp:// or redis:// for that",
        )

    def _queue(self, use: QueueUse, queue: str, check: Check) -> Iterator[Finding]:
        transport = self._context.transport
        name = transport.name_of(queue)

        def work(session: KombuSession) -> list[Finding] | None:
            return list(transport.findings(session, name, check)) if transport.exists(session, name) else None

        found = self._context.ask(work, f"look at the queue {queue!r}")
        if found is None:
            yield check.no_queue(queue, use)
        else:
            yield from found or [check.ok(f"there is a queue {queue!r}")]

    def _lease(self, use: QueueUse, check: Check) -> Iterator[Finding]:
        if use.task_timeout is None:
            yield check.not_checked(
                "nobody says how long a task may take (task_timeout)",
                "qbridge doctor --target module:name of an App, or of what returns a TaskManager",
            )
            return
        try:
            self._leases.check_task_timeout(use.queue, use.task_timeout)
        except ConfigurationError as exc:
            yield check.problem(str(exc), "a shorter task_timeout")
        else:
            yield check.ok(f"a task of {use.task_timeout:g} s is not given to another worker meanwhile")
