"""Sends the tasks of a plan, one confirmed message after another, through all faults."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from chaos.plan import Fate, Plan
from qbridge_core import Delivery, Message, PublishUnconfirmedError, QueueClient, TransientError

_PAUSE = 0.1


def message_for(plan: Plan, task_id: str) -> Message:
    """The message of a task. Its id names it in the dead-letter queue even when it is no task."""
    fate = plan.fates[task_id]
    if fate is Fate.MALFORMED:
        return Message(f"no task {task_id}".encode(), message_id=task_id)
    fails = fate.failed_runs
    return Message.for_task({"id": task_id, "seconds": plan.task_seconds, "fails": fails}, task_id=task_id)[0]


def task_of(delivery: Delivery) -> str:
    """The id of the task that `message_for` made a message of."""
    with suppress(ValueError):
        return str(json.loads(delivery.body)["task_id"])
    return delivery.message_id or ""


class Publisher:
    """Publishes until the broker has confirmed, as a careful producer does.

    ``publish`` is called by one thread at a time.

    Attributes:
        published: the ids that were confirmed.
        resent: how often each id was sent once more although the broker may have had it.
    """

    def __init__(self, client: QueueClient, queue: str, plan: Plan) -> None:
        self.published: set[str] = set()
        self.resent: Counter[str] = Counter()
        self._client = client
        self._queue = queue
        self._plan = plan

    def publish_all(self, ids: Iterable[str], deadline: float) -> None:
        """Publish many at once; if that fails, each by itself, until the deadline (monotonic seconds)."""
        ids = list(ids)
        try:
            self._client.publish_many(self._queue, [message_for(self._plan, task_id) for task_id in ids])
        except TransientError:  # for one of them; others may have arrived
            self.resent.update(ids)
            self.publish(ids, deadline)
        else:
            self.published.update(ids)

    def publish(self, ids: Iterable[str], deadline: float) -> None:
        """Publish one after another, each until it is confirmed; give up at the deadline (monotonic seconds)."""
        for task_id in ids:
            while not self._try(task_id):
                if time.monotonic() > deadline:
                    return
                time.sleep(_PAUSE)

    def _try(self, task_id: str) -> bool:
        message = message_for(self._plan, task_id)
        try:
            self._client.publish(self._queue, message.body, message_id=message.message_id)
        except PublishUnconfirmedError:
            self.resent[task_id] += 1
            return False
        except TransientError:  # the broker does not have it: that is what the other errors say
            return False
        self.published.add(task_id)
        return True


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
