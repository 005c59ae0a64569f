"""Publishes the tasks of a plan for as long as it takes, and remembers what it does not know.

A producer whose confirmation was lost cannot tell whether the broker has the message, and publishes it once more. That
is a second message, and no worker can know that it is the same task. So each is a *copy* with a name of its own, which
is its task id: `000123.1` is the second copy of task `000123`. What becomes of every copy can then be told apart.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from chaos.plan import Fate, Plan, Sent, copy_name, task_of
from qbridge_core import Delivery, Message, PublishUnconfirmedError, QueueClient, TransientError

_PAUSE = 0.1


def message_for(plan: Plan, name: str) -> Message:
    """The message of a copy. The message id names it in the dead-letter queue when it is no task."""
    fate = plan.fates[task_of(name)]
    if fate is Fate.MALFORMED:
        return Message(f"no task {name}".encode(), message_id=name)
    return Message.for_task({"id": name, "seconds": plan.task_seconds, "fails": fate.failed_runs}, task_id=name)[0]


def copy_of(delivery: Delivery) -> str:
    """The name of the copy that `message_for` made a message of."""
    with suppress(ValueError):
        return str(json.loads(delivery.body)["task_id"])
    return delivery.message_id or ""


class Publisher:
    """Publishes until the broker has confirmed, as a careful producer does.

    ``publish`` is called by one thread at a time.

    Attributes:
        copies: what the broker said to each copy that was sent. At most one copy of a task is confirmed.
        confirmed: those that were confirmed.
    """

    def __init__(self, client: QueueClient, queue: str, plan: Plan) -> None:
        self.copies: dict[str, Sent] = {}
        self.confirmed: set[str] = set()
        self._client = client
        self._queue = queue
        self._plan = plan
        self._numbers = dict.fromkeys(plan.fates, 0)

    def publish_all(self, ids: Iterable[str], deadline: float) -> None:
        """Publish many at once; if that fails, each by itself, until the deadline (monotonic seconds)."""
        ids = list(ids)
        names = [self._next_name(task_id) for task_id in ids]
        try:
            self._client.publish_many(self._queue, [message_for(self._plan, name) for name in names])
        except TransientError:  # for one of them; others may have arrived
            self.copies.update(dict.fromkeys(names, Sent.UNKNOWN))
            self.publish(ids, deadline)
        else:
            self._note_confirmed(names)

    def publish(self, ids: Iterable[str], deadline: float) -> None:
        """Publish one after another, each until it is confirmed; give up at the deadline (monotonic seconds)."""
        for task_id in ids:
            while not self._try(task_id):
                if time.monotonic() > deadline:
                    return
                time.sleep(_PAUSE)

    def _try(self, task_id: str) -> bool:
        name = self._next_name(task_id)
        message = message_for(self._plan, name)
        try:
            self._client.publish(self._queue, message.body, message_id=message.message_id)
        except PublishUnconfirmedError:
            self.copies[name] = Sent.UNKNOWN
            return False
        except TransientError:  # the broker does not have it: that is what the other errors say
            self.copies[name] = Sent.REFUSED
            return False
        self._note_confirmed([name])
        return True

    def _next_name(self, task_id: str) -> str:
        number = self._numbers[task_id]
        self._numbers[task_id] += 1
        return copy_name(task_id, number)

    def _note_confirmed(self, names: Iterable[str]) -> None:
        names = list(names)
        self.copies.update(dict.fromkeys(names, Sent.CONFIRMED))
        self.confirmed.update(names)


class Background:
    """The publisher at work in a thread of its own, while faults are made."""

    def __init__(self, publisher: Publisher, ids: Iterable[str], deadline: float) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(publisher, list(ids), deadline), name="publisher", daemon=True
        )
        self._thread.start()

    def _run(self, publisher: Publisher, ids: list[str], deadline: float) -> None:
        try:
            publisher.publish(ids, deadline)
        except BaseException as exc:
            self._error = exc

    def join(self) -> None:
        """Wait until it is done or has given up; raise what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
