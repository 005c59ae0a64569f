"""The task manager on this backend: the promises that users see."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise

import pytest

from qbridge_core import (
    ConstantBackoff,
    HandlerTimeout,
    Outcome,
    QueueClient,
    Reason,
    Reject,
    Retry,
    RunReport,
    Snooze,
    TaskManager,
    current_task,
    hookimpl,
)
from qbridge_core.message import SOURCE_QUEUE, TASK_ID
from qbridge_core.testing.base import Backend, MakeClient, is_empty


class WorkerTests(Backend):
    """``TaskManager`` end to end."""

    def run_until_idle(self, client: QueueClient, manager: TaskManager, queue: str) -> RunReport:
        """Work off what waits in the queue: where counts are estimates, from when they show that something does."""
        if not client.capabilities.exact_stats:
            self.eventually(lambda: not is_empty(client, queue), self.counting_time(client), "tasks are never counted")
        return manager.run_until_idle(60.0 + self.counting_time(client))

    def test_g2_the_main_job(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """Good tasks run once, one that always fails exactly 4 times, a malformed one never."""
        runs: Counter[str] = Counter()

        def handler(payload: str) -> None:
            runs[payload] += 1
            if payload == "bad":
                raise ValueError("always")

        bad_body = b'{ "payload" : "bad",  "task_id": "b-1" }'
        client.declare(queue_name, dead)
        client.send_many(queue_name, [f"good-{n}" for n in range(20)])
        client.publish(queue_name, bad_body)
        client.publish(queue_name, b"{not json")
        manager = TaskManager(client, handler, queue_name, dead, max_retries=3, max_workers=4)
        report = self.run_until_idle(client, manager, queue_name)

        assert runs == {**{f"good-{n}": 1 for n in range(20)}, "bad": 4}
        assert (report[Outcome.SUCCEEDED], report[Outcome.RETRIED]) == (20, 3)
        assert (report[Outcome.FAILED], report[Outcome.MALFORMED]) == (1, 1)
        self.assert_empty(client, queue_name)
        if client.capabilities.browse:
            letters = {letter.body: letter for letter in client.dead_letters(dead)}
            assert set(letters) == {bad_body, b"{not json"}
            failed = letters[bad_body]
            assert (failed.reason, failed.attempts, failed.task_id) == (Reason.FAILED, 4, "b-1")
            assert (failed.exception_type, failed.exception_message) == ("ValueError", "always")
            assert "always" in failed.traceback
            assert (letters[b"{not json"].reason, letters[b"{not json"].attempts) == (Reason.MALFORMED, 0)

    def test_queues_are_created_at_start(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """Starting a manager creates its queues where they are missing."""
        with TaskManager(client, print, queue_name, dead, max_workers=1):
            client.send(queue_name, 1)
            self.assert_empty(client, queue_name, soon=True)

    def test_g9_a_stuck_handler_neither_stops_the_others_nor_stays(
        self, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """A handler that hangs past its timeout is retried and dead-lettered as ``timed out`` while others go on."""
        release = threading.Event()
        runs: Counter[str] = Counter()

        def handler(payload: str) -> None:
            runs[payload] += 1
            if payload == "stuck":
                release.wait()

        client.declare(queue_name, dead)
        client.send_many(queue_name, ["stuck", *(f"good-{n}" for n in range(20))])
        manager = TaskManager(client, handler, queue_name, dead, max_retries=1, task_timeout=0.6, max_workers=1)
        try:
            report = self.run_until_idle(client, manager, queue_name)
        finally:
            release.set()
        assert runs["stuck"] == 2
        assert (report.succeeded, report[Outcome.TIMED_OUT]) == (20, 1)
        assert report[Outcome.RETRIED] >= 1, "and what a busy machine made late"
        if client.capabilities.browse:
            (letter,) = client.dead_letters(dead)
            assert (letter.reason, letter.attempts) == (Reason.TIMED_OUT, 2)
            assert "release.wait" in letter.traceback

    def test_a_dead_letter_queue_can_be_worked_off(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """A worker whose input is a dead-letter queue runs each letter as a new task, with all of its attempts."""
        runs: list[int] = []

        def handler(payload: object) -> None:
            runs.append(current_task().attempt)
            raise ValueError(payload)

        client.declare(queue_name, dead)
        client.send(queue_name, "x", task_id="t")
        for queue, letters, retries in ((queue_name, dead, 1), (dead, f"{dead}-2", 2)):
            manager = TaskManager(client, handler, queue, letters, max_retries=retries, max_workers=1)
            self.run_until_idle(client, manager, queue)
        assert runs == [1, 2, 1, 2, 3]
        letter = self.receive_one(client, f"{dead}-2")
        assert (letter.attempts, letter.meta[SOURCE_QUEUE], letter.meta[TASK_ID]) == (3, dead, "t")

    def test_g9_a_late_result_changes_nothing(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """A handler that returns after its timeout can no longer acknowledge its message."""
        ended = threading.Event()

        def handler(payload: object) -> None:
            with suppress(HandlerTimeout):  # a handler that does not let itself be stopped
                time.sleep(0.5)  # the subject of the test: longer than the timeout
            ended.set()

        client.declare(queue_name, dead)
        client.send(queue_name, 1)
        manager = TaskManager(client, handler, queue_name, dead, max_retries=0, task_timeout=0.1, max_workers=1)
        report = self.run_until_idle(client, manager, queue_name)
        assert ended.wait(self.wait)
        assert (report.succeeded, report[Outcome.TIMED_OUT]) == (0, 1)
        self.assert_counts(client, dead, ready=1)

    def test_g10_a_handler_in_python_code_is_interrupted(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """A handler that loops past its deadline sees ``cancelled`` and is ended by HandlerTimeout."""
        seen: list[object] = []
        interrupted = threading.Event()

        def handler(payload: object) -> None:
            task = current_task()
            seen.append((task.task_id, task.attempt, task.queue, task.cancelled))
            try:
                while True:
                    time.sleep(0.001)
            except HandlerTimeout:
                seen.append(task.cancelled)
                interrupted.set()
                raise

        client.declare(queue_name, dead)
        client.send(queue_name, 1, task_id="loop")
        manager = TaskManager(client, handler, queue_name, dead, max_retries=0, task_timeout=0.2, max_workers=1)
        report = self.run_until_idle(client, manager, queue_name)
        assert interrupted.wait(self.wait)
        assert report[Outcome.TIMED_OUT] == 1
        assert seen == [("loop", 1, queue_name, False), True]

    def test_g10_an_async_handler_runs_many_at_once_and_is_cancelled(
        self, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """Coroutines run ``max_workers`` at a time, fail like functions, and are cancelled at their timeout."""
        together: list[int] = []
        cancelled = threading.Event()
        running = 0

        async def handler(payload: str) -> None:
            nonlocal running
            if payload == "bad":
                raise ValueError("always")
            if payload == "stuck":
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    cancelled.set()
                    raise
            running += 1
            together.append(running)
            assert current_task().queue == queue_name
            await asyncio.sleep(0.01)
            running -= 1

        client.declare(queue_name, dead)
        client.send_many(queue_name, ["stuck", "bad", *(f"good-{n}" for n in range(20))])
        manager = TaskManager(client, handler, queue_name, dead, max_retries=0, task_timeout=1.0, max_workers=4)
        report = self.run_until_idle(client, manager, queue_name)
        assert (report.succeeded, report[Outcome.FAILED], report[Outcome.TIMED_OUT]) == (20, 1, 1)
        assert cancelled.wait(self.wait)
        assert 2 <= max(together) <= 4

    def test_g8_stop_hands_back_what_was_not_started(
        self, make_client: MakeClient, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """A graceful stop finishes what runs and gives the rest back uncounted."""
        running, go_on = threading.Event(), threading.Event()
        done: list[object] = []

        class Plugin:
            @hookimpl
            def qbridge_worker_stopping(self) -> None:
                go_on.set()

        def handler(payload: object) -> None:
            running.set()
            go_on.wait(self.wait)
            done.append(payload)

        client.declare(queue_name, dead)
        client.send_many(queue_name, range(10))
        with TaskManager(client, handler, queue_name, dead, max_workers=2, plugins=[Plugin()]):
            assert running.wait(self.wait)
        finished = len(done)
        assert 1 <= finished <= 2
        other = make_client()
        self.assert_counts(other, queue_name, ready=10 - finished, soon=True)
        rest = other.receive(queue_name, 10, self.wait)
        assert {delivery.attempts for delivery in rest} == {0}

    def test_two_managers_share_a_queue(
        self, make_client: MakeClient, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """Two workers on one queue run every task once between them."""
        lock = threading.Lock()
        runs: Counter[int] = Counter()

        def handler(payload: int) -> None:
            with lock:
                runs[payload] += 1

        client.declare(queue_name, dead)
        other = make_client()
        with (
            TaskManager(client, handler, queue_name, dead, max_workers=2),
            TaskManager(other, handler, queue_name, dead, max_workers=2),
        ):
            client.send_many(queue_name, range(200))
            self.eventually(lambda: len(runs) == 200)
            for each in (client, other):
                self.assert_empty(each, queue_name, soon=True)
        assert set(runs.values()) == {1}

    def test_g7_a_handler_can_say_what_becomes_of_its_task(
        self, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """``Reject`` dead-letters at once, ``Retry`` counts an attempt, ``Snooze`` postpones for free."""
        attempts: dict[str, list[int]] = {"reject": [], "retry": [], "snooze": []}

        def handler(payload: str) -> None:
            attempts[payload].append(1)
            if payload == "reject":
                raise Reject("never")
            if payload == "retry":
                raise Retry(after=0.1) from ValueError("busy")
            if len(attempts[payload]) < 4:
                raise Snooze(0.1)

        client.declare(queue_name, dead)
        client.send_many(queue_name, list(attempts))
        manager = TaskManager(client, handler, queue_name, dead, max_retries=1, max_workers=2)
        report = self.run_until_idle(client, manager, queue_name)
        assert {payload: len(runs) for payload, runs in attempts.items()} == {"reject": 1, "retry": 2, "snooze": 4}
        assert (report.succeeded, report[Outcome.SNOOZED], report[Outcome.RETRIED]) == (1, 3, 1)
        if client.capabilities.browse:
            letters = {letter.reason: letter for letter in client.dead_letters(dead)}
            assert (letters[Reason.REJECTED].attempts, letters[Reason.REJECTED].exception_message) == (1, "never")
            assert (letters[Reason.FAILED].attempts, letters[Reason.FAILED].exception_type) == (2, "ValueError")

    def test_g7_backoff_delays_the_retry(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """With a backoff the next run starts no earlier than its delay."""
        if not client.capabilities.delay:
            pytest.skip("no delays claimed")
        seconds = 0.3
        starts: list[float] = []

        def handler(payload: object) -> None:
            starts.append(time.monotonic())
            raise ValueError

        client.declare(queue_name, dead)
        client.send(queue_name, 1)
        manager = TaskManager(
            client, handler, queue_name, dead, max_retries=2, max_workers=1, backoff=ConstantBackoff(seconds)
        )
        self.run_until_idle(client, manager, queue_name)
        assert len(starts) == 3
        # Brokers count in milliseconds, so a delay may end a fraction of one early on this process's clock.
        assert all(later - earlier > seconds * 0.95 for earlier, later in pairwise(starts))

    def test_hooks_come_in_the_order_of_what_they_tell(self, client: QueueClient, queue_name: str, dead: str) -> None:
        """However slow a hook is, ``retried`` of one attempt has returned before the next attempt is told."""
        told: dict[str, list[str]] = {}

        class Plugin:
            @hookimpl
            def qbridge_task_started(self, task_id: str, attempt: int) -> None:
                told.setdefault(task_id, []).append(f"started {attempt}")

            @hookimpl
            def qbridge_task_retried(self, task_id: str, attempt: int) -> None:
                time.sleep(0.02)  # the subject of the test: the next attempt is there already
                told[task_id].append(f"retried {attempt}")

        def handler(payload: object) -> None:
            raise ValueError

        client.declare(queue_name, dead)
        client.send_many(queue_name, range(5))
        plugin = Plugin()
        manager = TaskManager(client, handler, queue_name, dead, max_retries=2, max_workers=4, plugins=[plugin])
        assert self.run_until_idle(client, manager, queue_name)[Outcome.FAILED] == 5
        assert list(told.values()) == [["started 1", "retried 1", "started 2", "retried 2", "started 3"]] * 5
