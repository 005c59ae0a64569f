"""What the tasks of the project do, on a broker in memory: the tests of `manage.py test`."""

import datetime
import json
from contextlib import contextmanager

import django
from asgiref.sync import async_to_sync
from django.db import transaction
from django.test import SimpleTestCase, TestCase, TransactionTestCase, override_settings

from qbridge_core import PayloadError, connect
from qbridge_core.contrib.django import project_app
from shop import tasks
from shop.models import Note

if django.VERSION >= (6, 0):
    from django.tasks import TaskResultStatus, default_task_backend
    from django.tasks.exceptions import InvalidTask
    from django.tasks.signals import task_enqueued, task_finished, task_started
else:
    from django_tasks import TaskResultStatus, default_task_backend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask
    from django_tasks.signals import task_enqueued, task_finished, task_started

URL = "memory://django"
"""What `memory://` is for all that is in one process."""


def ready(queue):
    """The bodies of what waits in a queue, which is empty then."""
    with connect(URL) as client:
        client.declare(queue, f"{queue}.dead")
        deliveries = client.receive(queue, 100, 0.05)
        for each in deliveries:
            client.ack(each)
    return [json.loads(each.body) for each in deliveries]


def purge():
    """Empty all queues, and forget what was seen."""
    tasks.seen.clear()
    with connect(URL) as client:
        for queue in ("mails", "reports", "loop", "native", "images", "children"):
            for each in (queue, f"{queue}.dead"):
                client.declare(queue, f"{queue}.dead")
                client.purge(each)
                client.purge(queue, delayed=True)


@contextmanager
def receiving(*signals):
    """What signals tell within a block: the status and the result."""
    told = []

    def receive(sender, task_result, **kwargs):
        assert sender.__name__ == "QBridgeBackend"
        told.append((str(task_result.status), task_result))

    for signal in signals:
        signal.connect(receive)
    yield told
    for signal in signals:
        signal.disconnect(receive)


class EnqueueTests(SimpleTestCase):
    """Sending, without a worker."""

    def setUp(self):
        """Begin with nothing."""
        purge()

    def test_the_result_is_ready_and_has_the_id_of_the_message(self):
        """The message has the name of the task, and the arguments as they were given."""
        result = tasks.mail.enqueue("ann", subject=("a", "b"))
        assert result.status == TaskResultStatus.READY
        assert result.enqueued_at is not None
        assert (result.args, result.kwargs, result.backend) == (["ann"], {"subject": ["a", "b"]}, "default")
        [message] = ready("mails")
        assert message["task"] == "shop.tasks.mail"
        assert message["task_id"] == result.id
        assert message["payload"] == {"args": ["ann"], "kwargs": {"subject": ["a", "b"]}}

    def test_another_queue_and_another_backend_can_be_used(self):
        """With `using`, and a queue that the backend does not have is refused."""
        tasks.mail.using(queue_name="reports").enqueue("ann")
        assert len(ready("reports")) == 1
        assert tasks.mail.using(backend="loop", queue_name="loop").enqueue("ann").backend == "loop"
        assert len(ready("loop")) == 1
        with self.assertRaisesMessage(InvalidTask, "Queue 'loop' is not valid for backend."):
            tasks.mail.using(queue_name="loop")

    def test_what_is_to_run_later_is_held_by_the_broker(self):
        """Until `run_after`, also without time zones."""
        assert default_task_backend.supports_defer
        tasks.mail.using(run_after=datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)).enqueue("ann")
        with override_settings(USE_TZ=False):
            tasks.mail.using(run_after=datetime.datetime.now() + datetime.timedelta(hours=1)).enqueue("bob")  # noqa: DTZ005
        with connect(URL) as client:
            assert client.stats("mails").delayed == 2

    def test_arguments_that_json_has_not_are_refused(self):
        """Nothing is sent."""
        for wrong, error in (
            (object(), TypeError),
            ({1, 2}, TypeError),
            ({1: 2}, PayloadError),
            (float("nan"), PayloadError),
        ):
            with self.assertRaises(error):
                tasks.mail.enqueue(wrong)
        assert ready("mails") == []

    def test_arguments_that_the_function_has_not_are_refused(self):
        """They would fail in a worker, again and again."""
        with self.assertRaisesMessage(TypeError, "shop.tasks.mail: got an unexpected keyword argument 'topic'"):
            tasks.mail.enqueue("ann", topic="hello")
        with self.assertRaisesMessage(TypeError, "shop.tasks.attempts: too many positional arguments"):
            tasks.attempts.enqueue(1)
        assert ready("mails") == []

    def test_a_coroutine_can_send(self):
        """With `aenqueue`."""
        with receiving(task_enqueued) as told:
            result = async_to_sync(tasks.mail.aenqueue)("ann")
        assert [(status, each.id) for status, each in told] == [("READY", result.id)]
        assert [each["task_id"] for each in ready("mails")] == [result.id]

    def test_what_it_can_not_do_it_does_not_claim(self):
        """Results and priorities; it says what to do instead."""
        assert not default_task_backend.supports_get_result
        assert not default_task_backend.supports_priority
        assert default_task_backend.supports_async_task
        with self.assertRaisesMessage(NotImplementedError, "QBridge keeps no results"):
            tasks.mail.get_result("1")
        with self.assertRaisesMessage(NotImplementedError, "QBridge keeps no results"):
            async_to_sync(tasks.mail.aget_result)("1")
        with self.assertRaisesMessage(InvalidTask, "Backend does not support setting priority of tasks."):
            tasks.mail.using(priority=5)

    def test_a_receiver_that_raises_changes_nothing_for_what_was_sent(self):
        """Who has sent it would send it again."""

        def receive(**kwargs):
            raise ValueError

        task_enqueued.connect(receive)
        try:
            with self.assertLogs("django.dispatch", "ERROR"):
                tasks.mail.enqueue("ann")
        finally:
            task_enqueued.disconnect(receive)
        assert len(ready("mails")) == 1

    def test_settings_that_a_test_overrides_count_at_once(self):
        """Another broker."""
        own = {
            "default": {
                "BACKEND": "qbridge_core.contrib.django.QBridgeBackend",
                "QUEUES": ["mails"],
                "OPTIONS": {"url": "memory://own"},
            }
        }
        with override_settings(TASKS=own):
            tasks.mail.enqueue("ann")
        assert ready("mails") == []
        tasks.mail.enqueue("ann")
        assert len(ready("mails")) == 1


class CommitTests(TestCase):
    """Sending in a transaction."""

    def setUp(self):
        """Begin with nothing."""
        purge()

    def test_what_is_sent_on_commit_is_sent_then(self):
        """Neither before, nor after a rollback; by tasks of both kinds."""
        with self.captureOnCommitCallbacks(execute=True), transaction.atomic():
            transaction.on_commit(lambda: tasks.mail.enqueue("ann"))
            transaction.on_commit(lambda: tasks.count.send("ann"))
            assert ready("mails") == []
        assert len(ready("mails")) == len(ready("native")) == 1
        with self.captureOnCommitCallbacks(execute=True):
            try:
                with transaction.atomic():
                    transaction.on_commit(lambda: tasks.mail.enqueue("ann"))
                    raise ValueError
            except ValueError:
                pass
        assert ready("mails") == []


class RunTests(TransactionTestCase):
    """Working off."""

    def setUp(self):
        """Begin with nothing."""
        purge()

    def run_all(self):
        """Work off all queues but those with child processes, which have another database."""
        return project_app().run_until_idle(queues=["mails", "reports", "loop", "native"])

    def test_tasks_run_with_their_arguments(self):
        """In any of their queues; functions and coroutines."""
        tasks.mail.enqueue("ann", subject="a")
        tasks.mail.using(queue_name="reports").enqueue("bob")
        tasks.mail_in_thread.enqueue("cid")
        tasks.together.enqueue("dan")
        tasks.mail_in_thread.using(backend="loop", queue_name="loop").enqueue("eve")
        tasks.count.send("eggs")
        assert self.run_all().succeeded == 6
        written = sorted(Note.objects.values_list("text", flat=True))
        assert [text.split()[:2] for text in written] == [
            ["count", "eggs"], ["mail", "ann"], ["mail", "bob"], ["mail", "cid"], ["mail", "eve"], ["together", "dan"],
        ]  # fmt: skip

    def test_a_task_sees_its_attempts(self):
        """In its context: how often, where, since when."""
        result = tasks.attempts.enqueue()
        with receiving(task_started, task_finished) as told:
            assert self.run_all().retried == 1
        assert [attempt for attempt, _ in tasks.seen] == [1, 2]
        last = tasks.seen[1][1]
        assert last.id == result.id
        assert len(last.worker_ids) == 2
        assert all(":" in worker for worker in last.worker_ids)
        assert last.started_at < last.last_attempted_at
        # The first attempt has failed, but the task has not.
        assert [status for status, _ in told] == ["RUNNING", "RUNNING", "SUCCESSFUL"]

    def test_signals_tell_of_success(self):
        """When it begins, and with what the task has returned; of functions and coroutines."""
        with receiving(task_started, task_finished) as told:
            tasks.mail.enqueue("ann")
            tasks.together.enqueue("bob")
            self.run_all()
        assert sorted((status, each.task.name) for status, each in told) == [
            ("RUNNING", "mail"), ("RUNNING", "together"), ("SUCCESSFUL", "mail"), ("SUCCESSFUL", "together"),
        ]  # fmt: skip
        assert {each.return_value for _, each in told} == {"ann", "bob"}

    def test_signals_tell_of_what_has_failed_for_good(self):
        """Once, with the exception, when the last attempt has failed."""
        with receiving(task_finished) as told, self.assertLogs("qbridge.worker", "ERROR"):
            result = tasks.mail.enqueue("ann", fail=True)
            assert self.run_all().dead_lettered == 1
        [(status, failed)] = told
        assert status == "FAILED"
        assert failed.id == result.id
        assert (failed.args, failed.kwargs) == (["ann"], {"fail": True})
        assert failed.attempts == 2
        [error] = failed.errors
        assert error.exception_class is LookupError
        assert "raise LookupError(to)" in error.traceback

    def test_a_receiver_that_raises_changes_nothing_for_a_task(self):
        """It has run, once."""

        def receive(**kwargs):
            raise ValueError

        for signal in (task_started, task_finished):
            signal.connect(receive)
        try:
            with self.assertLogs("django.dispatch", "ERROR"):
                tasks.mail.enqueue("ann")
                report = self.run_all()
        finally:
            for signal in (task_started, task_finished):
                signal.disconnect(receive)
        assert (report.succeeded, report.retried) == (1, 0)

    def test_connections_are_closed_after_each_run(self):
        """Those of the thread, as after a request, and its list of queries begins anew."""
        with override_settings(DEBUG=True):
            tasks.count.send("eggs")
            tasks.count.send("ham")
            self.run_all()
        assert tasks.seen[0] == tasks.seen[2] == (None, 0)
        assert tasks.seen[1] is tasks.seen[3]
        assert tasks.seen[1].connection is None

    def test_coroutines_do_not_wait_for_queries_of_others(self):
        """Each has a thread of its own for them, which ends with the run, with its connections."""
        for name in range(5):
            tasks.together.enqueue(name)
        assert self.run_all().succeeded == 5
        assert len({thread.ident for thread, _ in tasks.seen}) == 5
        for thread, connection in tasks.seen:
            thread.join(10)
            assert not thread.is_alive()
            assert connection.connection is None

    def test_no_queue_has_another_name(self):
        """A worker for a queue that no task has is refused, and the others are named."""
        with self.assertRaisesMessage(
            ValueError, "no task of this app has the queue 'emials'; there are images, native"
        ):
            project_app().managers(["emials"])
