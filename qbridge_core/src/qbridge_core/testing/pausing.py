"""Queues that are paused: workers rest, and everything else goes on."""

from __future__ import annotations

import threading

import pytest

from qbridge_core import (
    ConfigurationError,
    QueueClient,
    QueuePausedError,
    TaskManager,
    UnroutableError,
    UnsupportedError,
)
from qbridge_core.testing.base import Backend, MakeClient

_SOON = 5.0
"""Seconds within which each worker has to know; the suite adds what a busy machine takes."""


class PausingTests(Backend):
    """``pause``, ``resume``, ``paused``, and what workers make of them."""

    @pytest.fixture
    def pauses(self, client: QueueClient) -> None:
        """Skip a test where queues cannot be paused."""
        if not client.capabilities.pause:
            pytest.skip("queues cannot be paused")

    def test_queues_are_paused_as_far_as_that_is_claimed(self, client: QueueClient, queue: str) -> None:
        """Without the claim each call is an error, and ``stats`` does not tell; with it the mark comes and goes."""
        if not client.capabilities.pause:
            with pytest.raises(UnsupportedError):
                client.pause(queue)
            with pytest.raises(UnsupportedError):
                client.resume(queue)
            with pytest.raises(UnsupportedError):
                client.paused([queue])
            assert client.stats(queue).paused is None
            return
        assert (client.stats(queue).paused, client.paused([queue])) == (False, set())
        client.pause(queue)
        assert (client.stats(queue).paused, client.paused([queue])) == (True, {queue})
        assert client.count(queue).paused is True, "workers count"
        client.resume(queue)
        assert (client.stats(queue).paused, client.paused([queue])) == (False, set())

    @pytest.mark.usefixtures("pauses")
    def test_a_pause_is_seen_by_all_and_outlasts_who_made_it(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str, queue_name: str
    ) -> None:
        """Of this queue and no other; a second pause or resume changes nothing, nor does connecting again."""
        other, missing = make_client(), f"{queue_name}-not-there-yet"
        assert other.paused([queue, dead]) == set()
        client.pause(queue)
        client.pause(queue)
        client.disconnect()
        assert other.paused([queue, dead, missing]) == {queue}
        assert other.paused([dead]) == set(), "nobody has asked for that queue"
        assert (other.stats(queue).paused, other.stats(dead).paused) == (True, False)
        other.pause(missing)
        late = make_client()
        assert late.paused([queue, missing]) == {queue, missing}
        with pytest.raises(UnroutableError):
            other.publish(missing, b"pausing a queue has created it")
        late.resume(queue)
        assert other.paused([queue, missing]) == {missing}
        late.resume(queue)
        late.resume(missing)
        client.connect()
        for each in (client, other, late):
            assert each.paused([queue, missing]) == set()
            assert each.stats(queue).paused is False

    @pytest.mark.usefixtures("pauses")
    def test_a_paused_queue_is_used_as_ever_by_all_others(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Publishing, receiving by hand, settling, purging and replay go on, and what is delayed becomes ready."""
        client.pause(queue)
        other = make_client()
        other.publish(queue, b"1")
        other.send_many(queue, [2, 3])
        if client.capabilities.delay:
            client.publish(queue, b"later", delay=0.1)
            self.assert_counts(client, queue, ready=4, soon=True)
            assert client.purge(queue) == 4
            other.publish(queue, b"1")
        first = self.receive_one(client, queue)
        assert first.body == b"1"
        client.reject(first, requeue=False)
        self.assert_counts(client, dead, ready=1)
        assert client.replay(dead, target=queue) == 1
        assert other.receive_any({queue: 1}, self.wait)
        client.declare(queue, dead)
        assert client.paused([queue]) == {queue}, "what is done with a queue does not end its pause"
        client.resume(queue)

    @pytest.mark.usefixtures("pauses")
    def test_workers_of_a_paused_queue_rest(
        self, make_client: MakeClient, client: QueueClient, queue_name: str, dead: str
    ) -> None:
        """A task that runs finishes; what was read ahead goes back, uncounted; what is sent waits for the end."""
        running, go_on = threading.Event(), threading.Event()
        done: list[object] = []

        def handler(payload: object) -> None:
            running.set()
            go_on.wait(3 * self.wait)
            done.append(payload)

        client.declare(queue_name, dead)
        operator, other, not_paused = make_client(), make_client(), f"{queue_name}-other"
        worker = TaskManager(client, handler, queue_name, dead, max_workers=1, task_timeout=600.0)
        with worker, TaskManager(other, done.append, not_paused, dead, max_workers=2):
            operator.send_many(queue_name, range(10))
            assert running.wait(self.wait)
            operator.pause(queue_name)
            self.eventually(lambda: worker.paused, _SOON + self.wait, "the worker does not rest")
            operator.send(not_paused, "not paused")
            self.eventually(lambda: done == ["not paused"], message="a queue rests that is not paused")
            rest = self.receive_all(operator, queue_name, 9, _SOON + self.wait)
            assert {(each.attempts, each.crashes, each.suspected) for each in rest} == {(0, 0, False)}
            go_on.set()
            self.eventually(lambda: len(done) == 2, message="a task that ran when the queue was paused does not finish")
            operator.hand_back(rest)
            self.assert_counts(operator, queue_name, ready=9, in_flight=0, soon=True)
            assert (worker.running, worker.error, len(done)) == (True, None, 2)
            operator.resume(queue_name)
            self.eventually(lambda: len(done) == 11, _SOON + self.wait, "the worker does not go on")
            assert not worker.paused
        self.assert_empty(operator, queue_name)

    @pytest.mark.usefixtures("pauses")
    def test_a_worker_that_starts_on_a_paused_queue_takes_nothing(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """From its beginning; ``run_until_idle`` says so at once where there is work, and else has nothing to do."""
        runs: list[object] = []
        client.pause(queue)
        manager = TaskManager(make_client(), runs.append, queue, dead, max_workers=2)
        assert manager.run_until_idle(self.wait).succeeded == 0
        client.send(queue, 1)
        self.await_counts(client, queue, ready=1)
        with pytest.raises(QueuePausedError, match=f"resume.*{queue}"):
            manager.run_until_idle(3 * self.wait)
        with manager:
            self.eventually(lambda: manager.paused)
            assert (manager.running, runs) == (True, [])
            self.assert_counts(client, queue, ready=1, in_flight=0)
            client.resume(queue)
            self.eventually(lambda: runs == [1], _SOON + self.wait, "the worker does not begin")
        assert not manager.paused

    @pytest.mark.usefixtures("pauses")
    def test_g18_pauses_need_the_name_of_a_queue(self, client: QueueClient, queue: str) -> None:
        """Anything else is an error."""
        for wrong in ("", 7, None):
            for call in (client.pause, client.resume):
                with pytest.raises(ConfigurationError):
                    call(wrong)  # type: ignore[arg-type]
            with pytest.raises(ConfigurationError):
                client.paused([queue, wrong])  # type: ignore[list-item]
        with pytest.raises(ConfigurationError):
            client.paused(queue)
        assert client.paused([]) == set()
