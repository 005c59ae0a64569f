"""What happened in a test, as the test asks for it: messages that were sent, dead letters, the story of a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qbridge_core import AppTask, ConfigurationError, DeadLetter
from qbridge_memory.stored import Event
from qbridge_pytest.client import FaultyClient
from qbridge_pytest.clock import Duration, seconds_of
from qbridge_pytest.faults import Fault
from qbridge_pytest.letters import Letters
from qbridge_pytest.reading import Reader
from qbridge_pytest.sent import ANYTHING, Sent, no_match, sent_in, unwanted
from qbridge_pytest.story import Step, steps_of, told
from qbridge_pytest.whose import Owners


class Happened:
    """What a :class:`~qbridge_pytest.Kit` tells of its broker.

    Args:
        client: a client of it.
        events: all that has happened to messages so far.
        reader: reads those.
        owners: know whose they are.

    Attributes:
        client: as above.
    """

    def __init__(self, client: FaultyClient, events: list[Event | Fault], reader: Reader, owners: Owners) -> None:
        self.client: Final = client
        self._events = events
        self._reader: Final = reader
        self._owners: Final = owners
        self._letters: Final = Letters(client, events, owners)

    def sent(
        self,
        where: str | AppTask[Any],
        *,
        payload: object = ANYTHING,
        headers: Mapping[str, object] | None = None,
        delay: Duration | None = None,
        task_id: str | None = None,
    ) -> list[Sent]:
        """The messages that were sent to a queue, or of a task, and are as told; in their order.

        Those that the test has sent count like those of handlers; retries and what was replayed do not.

        Args:
            where: the queue, or the task of an app.
            payload: what JSON says of it. Of an object only the keys that are here are looked at, at any depth.
            headers: those of the producer; others may be there.
            delay: for how long it was held back, to the millisecond.
            task_id: its id.

        Raises:
            AssertionError: there is none; the text shows the nearest ones, and where they differ.
            ConfigurationError: there is no such queue.
        """
        __tracebackhide__ = True
        wanted = _wanted(payload, headers, delay, task_id)
        there = self._sent(where)
        found = [each for each in there if not each.differences(wanted)]
        if not found:
            raise AssertionError(no_match(_named(where), wanted, there))
        return found

    def not_sent(
        self,
        where: str | AppTask[Any],
        *,
        payload: object = ANYTHING,
        headers: Mapping[str, object] | None = None,
        delay: Duration | None = None,
        task_id: str | None = None,
    ) -> None:
        """Nothing like this was sent; see ``sent``.

        Raises:
            AssertionError: something was; the text shows it.
            ConfigurationError: there is no such queue.
        """
        __tracebackhide__ = True
        wanted = _wanted(payload, headers, delay, task_id)
        if found := [each for each in self._sent(where) if not each.differences(wanted)]:
            raise AssertionError(unwanted(_named(where), wanted, found))

    def letters(self, queue: str | AppTask[Any]) -> list[DeadLetter]:
        """The dead letters of a queue or of a task, oldest first. The test expects them from now on.

        Args:
            queue: the queue that they came from, or a dead-letter queue, or a task of an app; what no worker could read
                is no task's.

        Raises:
            ConfigurationError: there is no such queue.
        """
        __tracebackhide__ = True
        self._checked(_queue_of(queue))
        return self._letters.of(queue)

    def allow_letters(self, *queues: str | AppTask[Any]) -> None:
        """Have the test not fail for dead letters of these queues or tasks, or of any.

        Raises:
            ConfigurationError: there is no such queue.
        """
        __tracebackhide__ = True
        for each in queues:
            self._checked(_queue_of(each))
        self._letters.allow(queues)

    def check_letters(self) -> None:
        """Fail for dead letters that nobody has looked at with ``letters``; each test does so at its end.

        Raises:
            AssertionError: there are some; the text has their tracebacks.
        """
        __tracebackhide__ = True
        if text := self.unexpected_letters():
            raise AssertionError(text)

    def unexpected_letters(self) -> str:
        """What ``check_letters`` fails with; "" for nothing."""
        self.client.connect()  # what is tested may have closed it
        return self._letters.unexpected()

    def history(self, task_id: str) -> list[Step]:
        """What happened to a task, in its order: when it was sent, received, retried and so on.

        Raises:
            ConfigurationError: no message had this id.
        """
        __tracebackhide__ = True
        steps = steps_of(self._events, self._reader, task_id)
        if not steps:
            raise ConfigurationError(f"no message of this test belongs to the task {task_id!r}")
        return steps

    def story(self) -> str:
        """The same of all tasks, as a text; "" for none."""
        return told(self._events, self._reader)

    def _sent(self, where: str | AppTask[Any]) -> list[Sent]:
        __tracebackhide__ = True
        sent = sent_in(self._events, self._reader)
        if isinstance(where, str):
            queue = self._checked(where)
            return [each for each in sent if each.queue == queue]
        return [each for each in sent if self._owners.is_of(where, each.queue, each.task)]

    def _checked(self, queue: str) -> str:
        __tracebackhide__ = True
        names = self.client.queues()
        if queue not in names:
            raise ConfigurationError(
                f"there is no queue {queue!r} in this test; there are {', '.join(names) or 'none'}"
            )
        return queue


def _queue_of(where: str | AppTask[Any]) -> str:
    return where if isinstance(where, str) else where.queue


def _named(where: str | AppTask[Any]) -> str:
    return repr(where) if isinstance(where, str) else f"{where.queue!r} for {where.name}"


def _wanted(
    payload: object, headers: Mapping[str, object] | None, delay: Duration | None, task_id: str | None
) -> dict[str, object]:
    """What was said of a message, by the names of its attributes."""
    wanted: dict[str, object] = {} if payload is ANYTHING else {"payload": payload}
    if headers is not None:
        wanted["headers"] = headers
    if delay is not None:
        wanted["delay"] = round(seconds_of("delay", delay), 3)
    if task_id is not None:
        wanted["task_id"] = task_id
    return wanted
