"""What careless and hostile callers, plugins and messages do, and what must hold all the same."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    Delivery,
    ExponentialBackoff,
    Failure,
    InvalidURLError,
    Message,
    NotConnectedError,
    Outcome,
    PayloadError,
    Reason,
    Retry,
    Snooze,
    TaskManager,
    UnroutableError,
    connect,
    hookimpl,
)
from qbridge_core.contract.url import BrokerURL
from qbridge_core.execute.executor import NotStartedError
from qbridge_core.message import ATTEMPTS, FIRST_FAILED_AT, SOURCE_QUEUE, meta_int, meta_text, meta_time
from qbridge_memory import MemoryClient, reset
from support.wait import wait_for


def connected(client: MemoryClient) -> MemoryClient:
    """Connect the client and create the queues ``q`` and ``d``."""
    client.connect()
    client.declare("q", "d")
    return client


def succeed(payload: object) -> None:
    """Handle any payload without doing anything."""


def note_waiting(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set once a receive of the client has found itself not cancelled and may wait.

    It is set under the broker's lock, so whoever sees it and then needs that lock comes after the wait has begun.
    """
    waiting = threading.Event()
    take = client._broker.take

    def noting_take(name: str, limit: int, timeout: float, owner: object, cancelled: Callable[[], bool]) -> Any:
        def noting_cancelled() -> bool:
            result = cancelled()
            waiting.set()
            return result

        return take(name, limit, timeout, owner, noting_cancelled)

    monkeypatch.setattr(client._broker, "take", noting_take)
    return waiting


def run_with_plugin(directory: Path, module: str, code: str) -> str:
    """Install a backend for ``plug://`` with the given module text, and return what the code prints beside it."""
    (directory / "plug.py").write_text(module)
    info = directory / "plug-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[qbridge]\nplug = plug\n")
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(directory)!r})\n{code}"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A connected client with the queues ``q`` and ``d``."""
    client = connected(MemoryClient())
    yield client
    client.disconnect()


# ---------------------------------------------------------------------- passwords


def test_a_url_in_place_of_a_client_is_not_printed_with_its_password() -> None:
    """Passing the URL instead of a client is an error that does not repeat the password."""
    not_a_client: Any = "amqp://user:secret@host"
    with pytest.raises(ConfigurationError) as info:
        TaskManager(not_a_client, succeed, "q", "d")
    assert "secret" not in str(info.value)


def test_a_password_before_the_scheme_separator_is_not_printed() -> None:
    """What stands before ``://`` is printed only if it is a scheme."""
    with pytest.raises(ConfigurationError) as info:
        connect("user:secret@host:5672/vhost?next=http://other")
    assert "secret" not in str(info.value)


@pytest.mark.parametrize("parse", [connect, BrokerURL.parse])
@pytest.mark.parametrize("scheme", ["nope", "amqp"])
def test_a_password_that_begins_with_a_slash_is_not_taken_for_a_path(
    parse: Callable[[str], object], scheme: str
) -> None:
    """A slash that is not encoded makes the URL invalid, and the error does not show what follows it."""
    with pytest.raises(InvalidURLError) as info:
        parse(f"{scheme}://user:/secret@host")
    assert "secret" not in str(info.value)


# ---------------------------------------------------------------------- arguments of a manager


def test_a_backoff_class_in_place_of_an_instance_is_refused(client: MemoryClient) -> None:
    """``backoff=ExponentialBackoff`` without parentheses is refused at construction."""
    backoff: Any = ExponentialBackoff
    with pytest.raises(ConfigurationError, match="backoff"):
        TaskManager(client, succeed, "q", "d", backoff=backoff)


@pytest.mark.parametrize("plugins", [None, object(), 3])
def test_plugins_that_are_no_sequence_are_refused(client: MemoryClient, plugins: Any) -> None:
    """Plugins that are not iterable are a ConfigurationError that names the argument."""
    with pytest.raises(ConfigurationError, match="plugins"):
        TaskManager(client, succeed, "q", "d", plugins=plugins)


@pytest.mark.parametrize("value", [3, int])
def test_dead_letter_on_that_is_no_sequence_is_refused(client: MemoryClient, value: Any) -> None:
    """The error about ``dead_letter_on`` names the argument."""
    with pytest.raises(ConfigurationError, match="dead_letter_on"):
        TaskManager(client, succeed, "q", "d", dead_letter_on=value)


def test_dead_letter_on_may_be_a_list(client: MemoryClient) -> None:
    """``dead_letter_on`` need not be a tuple."""
    TaskManager(client, succeed, "q", "d", dead_letter_on=[ValueError])


def test_an_integer_beyond_every_float_is_refused(client: MemoryClient) -> None:
    """``task_timeout=10**400`` is a ConfigurationError, not an OverflowError."""
    with pytest.raises(ConfigurationError, match="task_timeout"):
        TaskManager(client, succeed, "q", "d", task_timeout=10**400)


def test_a_huge_task_timeout_works(client: MemoryClient) -> None:
    """A ``task_timeout`` longer than a lock can wait does not break the worker."""
    client.send("q", 1)
    manager = TaskManager(client, succeed, "q", "d", task_timeout=sys.maxsize, max_workers=1)
    assert manager.run_until_idle(5).succeeded == 1


def test_a_huge_poll_timeout_works(client: MemoryClient) -> None:
    """With a ``poll_timeout`` longer than a lock can wait, tasks still arrive and the worker still stops."""
    seen: list[object] = []
    client.send("q", 1)
    manager = TaskManager(client, seen.append, "q", "d", max_workers=1)
    thread = threading.Thread(target=manager.start, args=(float(sys.maxsize),), daemon=True)
    thread.start()
    wait_for(lambda: seen == [1])
    client.send("q", 2)
    wait_for(lambda: seen == [1, 2])
    manager.stop()
    thread.join(5)
    assert not thread.is_alive()


# ---------------------------------------------------------------------- handlers, backoffs and hooks


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_a_generator_that_did_not_run_is_no_success(client: MemoryClient, kind: str) -> None:
    """A generator function as handler is refused, or its task fails when its body has not run."""
    ran: list[object] = []

    def generator(payload: object) -> Iterator[None]:
        ran.append(payload)
        yield

    async def async_generator(payload: object) -> AsyncIterator[None]:
        ran.append(payload)
        yield

    handler: Any = generator if kind == "generator" else async_generator
    client.send("q", 1)
    try:
        manager = TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1)
    except ConfigurationError:
        return
    assert manager.run_until_idle(5).succeeded == len(ran)


@pytest.mark.parametrize("value", ["raise", None, "x", math.nan, math.inf])
def test_a_broken_backoff_does_not_stop_the_worker(client: MemoryClient, value: Any) -> None:
    """When a backoff raises or returns no usable number, its task still ends and the next one is done."""

    class BrokenBackoff:
        def delay(self, attempt: int) -> Any:
            if value == "raise":
                raise RuntimeError("no delay")
            return value

    def handler(payload: object) -> None:
        if payload == "bad":
            raise ValueError

    client.send_many("q", ["bad", "good"])
    manager = TaskManager(client, handler, "q", "d", max_retries=1, max_workers=1, backoff=BrokenBackoff())
    report = manager.run_until_idle(5)
    assert (report.succeeded, report.dead_lettered) == (1, 1)


def test_a_hook_that_raises_system_exit_changes_nothing(client: MemoryClient) -> None:
    """A hook that raises a BaseException harms neither the task nor the worker."""

    class Exiting:
        @hookimpl
        def qbridge_task_started(self) -> None:
            raise SystemExit(3)

    client.send("q", 1)
    manager = TaskManager(client, succeed, "q", "d", max_workers=1, plugins=[Exiting()])
    assert manager.run_until_idle(5).succeeded == 1


def test_an_exception_that_cannot_be_printed_is_a_failure(client: MemoryClient) -> None:
    """An exception whose ``__str__`` raises a BaseException is a failure like any other."""

    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    def handler(payload: object) -> None:
        raise UnprintableError

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, max_retries=0)
    assert manager.run_until_idle(5)[Outcome.FAILED] == 1


@pytest.mark.parametrize("kind", ["function", "coroutine"])
def test_g5_an_internal_exception_of_qbridge_is_a_failure_like_any_other(client: MemoryClient, kind: str) -> None:
    """A handler cannot have its task given back, uncounted and for ever, by the exception that executors do it with."""
    client = connected(client)
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        raise NotStartedError("it did start")

    async def coroutine(payload: object) -> None:
        handler(payload)

    client.send("q", 1)
    manager = TaskManager(client, handler if kind == "function" else coroutine, "q", "d", max_retries=2)
    assert manager.run_until_idle(10.0)[Outcome.FAILED] == 1
    assert len(runs) == 3


def test_a_plugin_hears_of_the_worker_before_its_first_task(client: MemoryClient) -> None:
    """``qbridge_worker_started`` comes before the first ``qbridge_task_started``, however soon that is."""
    calls: list[str] = []

    class Recorder:
        @hookimpl
        def qbridge_worker_started(self) -> None:
            calls.append("worker")

        @hookimpl
        def qbridge_task_started(self) -> None:
            calls.append("task")

    client.send("q", 1)
    TaskManager(client, succeed, "q", "d", max_workers=1, plugins=[Recorder()]).run_until_idle(5)
    assert calls == ["worker", "task"]


# ---------------------------------------------------------------------- the end of a run


def test_the_report_counts_the_last_settlement() -> None:
    """The report of ``run_until_idle`` holds every settlement, also when the last ack returns late."""

    class SlowToAck(MemoryClient):
        def ack(self, delivery: Delivery) -> None:
            super().ack(delivery)
            time.sleep(0.3)  # the queue is idle already, and nothing but time tells that the report was too early

    client = connected(SlowToAck())
    client.send("q", 1)
    assert TaskManager(client, succeed, "q", "d", max_workers=1).run_until_idle(5).succeeded == 1


def test_what_a_stopping_worker_gives_back_keeps_its_order() -> None:
    """Tasks that were received but not begun are in the queue again as they were."""
    started = threading.Event()
    stopping = threading.Event()

    class Greedy(MemoryClient):
        def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
            return super().receive(queue, 5, timeout)

    class Releasing:
        @hookimpl
        def qbridge_worker_stopping(self) -> None:
            stopping.set()

    def handler(payload: object) -> None:
        started.set()
        stopping.wait(10)

    client = connected(Greedy())
    client.send_many("q", range(5))
    with TaskManager(client, handler, "q", "d", max_workers=1, plugins=[Releasing()]):
        assert started.wait(5)
    assert [json.loads(delivery.body)["payload"] for delivery in client.receive("q")] == [1, 2, 3, 4]


def test_no_handler_starts_after_stop_has_returned() -> None:
    """A task that arrives when the grace period is over goes back to the queue."""
    received = threading.Event()
    release = threading.Event()

    class SlowToReceive(MemoryClient):
        def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
            batch = super().receive(queue, max_messages, timeout)
            if batch:
                received.set()
                release.wait(10)
            return batch

    client = connected(SlowToReceive())
    client.send("q", 1)
    runs: list[object] = []
    with TaskManager(client, runs.append, "q", "d", max_workers=1, grace_period=0.0):
        assert received.wait(5)
    assert client.stats("q").in_flight == 1
    release.set()
    wait_for(lambda: client.stats("q").in_flight == 0)
    assert client.stats("q").ready == 1
    assert runs == []


def test_no_handler_starts_after_a_handler_has_called_stop(client: MemoryClient) -> None:
    """The task that calls ``stop`` is the last one."""

    def payloads_until_stop() -> list[object]:
        runs: list[object] = []

        def handler(payload: object) -> None:
            runs.append(payload)
            manager.stop()

        manager = TaskManager(client, handler, "q", "d", max_workers=1)
        manager.start()
        return runs

    for _ in range(20):
        client.purge("q")
        client.send_many("q", range(10))
        assert len(payloads_until_stop()) == 1


# ---------------------------------------------------------------------- headers


def test_a_hostile_time_is_unknown() -> None:
    """A time header beyond every float is no time, not an OverflowError."""
    assert meta_time({FIRST_FAILED_AT: "9" * 400}, FIRST_FAILED_AT) is None


def test_a_hostile_count_can_be_written_again() -> None:
    """A count from a header still fits the 64 bits of a broker's integer when one is added."""
    assert meta_int({ATTEMPTS: str(10**30)}, ATTEMPTS) + 1 < 2**63


def test_a_header_without_a_value_is_no_text() -> None:
    """None in a header reads as the empty text."""
    assert meta_text({SOURCE_QUEUE: None}, SOURCE_QUEUE) == ""


def test_a_time_is_rounded_to_the_millisecond() -> None:
    """A time whose float is a little below its milliseconds reads back as itself."""
    failure = Failure(Reason.FAILED, first_failed_at=32.245)
    assert meta_time(failure.retry_headers(), FIRST_FAILED_AT) == 32.245


@pytest.mark.parametrize("headers", [{"\ud800": "x"}, {"x": "\ud800"}, [("a", "b")], "ab", 3])
def test_headers_that_no_broker_can_carry_are_refused(client: MemoryClient, headers: Any) -> None:
    """Headers that cannot be UTF-8 and headers that are no mapping are a PayloadError."""
    with pytest.raises(PayloadError):
        client.publish("q", b"", headers=headers)


def test_publish_many_refuses_reserved_headers(client: MemoryClient) -> None:
    """``publish_many`` checks headers as ``publish`` does."""
    with pytest.raises(PayloadError):
        client.publish_many("q", [Message(b"", {"x-qbridge-attempts": "9"})])


def test_headers_are_copied_on_publish(client: MemoryClient) -> None:
    """Changing the mapping after ``publish`` changes nothing at the broker."""
    headers = {"a": "1"}
    client.publish("q", b"", headers=headers)
    headers["a"] = "2"
    assert client.receive("q")[0].headers["a"] == "1"


def test_a_consumer_cannot_change_the_headers_at_the_broker(client: MemoryClient) -> None:
    """A consumer that changes its delivery's headers changes nothing for the next attempt."""
    client.publish("q", b"", headers={"a": "1"})
    delivery = client.receive("q")[0]
    headers: Any = delivery.headers
    with contextlib.suppress(TypeError):
        headers["a"] = "2"
    client.reject(delivery)
    assert client.receive("q")[0].headers["a"] == "1"


def test_a_message_does_not_print_its_body() -> None:
    """The repr of a message does not show the payload."""
    assert "secret" not in repr(Message(b"secret"))


# ---------------------------------------------------------------------- the memory client


def test_a_receive_that_disconnect_wakes_takes_nothing(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``disconnect`` gives back is not handed to the same client's waiting ``receive``."""
    waiting = note_waiting(client, monkeypatch)
    for payload in range(20):
        client.connect()
        client.purge("q")
        client.send("q", payload)
        assert len(client.receive("q")) == 1
        waiting.clear()
        receiver = threading.Thread(target=client.receive, args=("q", 1, 60.0), daemon=True)
        receiver.start()
        assert waiting.wait(5)
        client.disconnect()
        receiver.join(5)
        assert not receiver.is_alive()
        stats = client._broker.count("q")
        assert (stats.ready, stats.in_flight) == (1, 0), payload


def test_a_receive_that_loses_the_race_against_disconnect_takes_nothing(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is disconnected between its check and its take hands out nothing."""
    client.send("q", 1)
    take = client._broker.take

    def take_late(*args: Any) -> Any:
        client.disconnect()
        return take(*args)

    monkeypatch.setattr(client._broker, "take", take_late)
    with contextlib.suppress(NotConnectedError):
        client.receive("q")
    assert client._broker.count("q").in_flight == 0


def test_letters_keep_their_order_when_a_replay_fails(client: MemoryClient) -> None:
    """Letters behind one that cannot be replayed stay as they were."""
    bodies = [b"1", b"2", b"3"]
    for body in bodies:
        client.publish("d", body)
    with pytest.raises(UnroutableError):
        client.replay("d")
    assert [letter.body for letter in client.dead_letters("d")] == bodies


def test_a_negative_limit_lists_no_letters(client: MemoryClient) -> None:
    """``dead_letters`` refuses a negative limit or lists nothing."""
    with contextlib.suppress(ConfigurationError):
        assert client.dead_letters("d", -1) == []


def test_reset_takes_the_name_as_it_stands_in_the_url() -> None:
    """``reset(name)`` forgets ``memory://name`` whatever the case of its letters."""
    name = f"CaseName-{uuid.uuid4().hex}"
    before = connected(MemoryClient(f"memory://{name}"))
    before.send("q", 1)
    reset(name)
    after = MemoryClient(f"memory://{name}")
    after.connect()
    assert after.stats("q").ready == 0


# ---------------------------------------------------------------------- backends


def test_a_backend_may_list_the_backends_while_it_is_imported(tmp_path: Path) -> None:
    """Calling ``backends()`` at import neither blocks nor recurses."""
    module = """
import qbridge_core
from qbridge_memory import MemoryClient

qbridge_core.backends()

@qbridge_core.hookimpl
def qbridge_backends():
    return {"plug": lambda url, options: MemoryClient()}
"""
    code = "import qbridge_core; print(qbridge_core.connect('plug://').connected)"
    assert run_with_plugin(tmp_path, module, code) == "True"


@pytest.mark.parametrize("answer", ["['plug']", "'plug'", "{'plug': None}"])
def test_a_hook_with_a_wrong_answer_is_a_load_error(tmp_path: Path, answer: str) -> None:
    """A ``qbridge_backends`` hook that returns no mapping of callables is a BackendLoadError."""
    module = f"""
import qbridge_core

@qbridge_core.hookimpl
def qbridge_backends():
    return {answer}
"""
    code = """
import qbridge_core

try:
    qbridge_core.connect("plug://")
except qbridge_core.BackendLoadError:
    print("refused")
"""
    assert run_with_plugin(tmp_path, module, code) == "refused"


class _Unfinished(Snooze):
    """Forgets to call its base class."""

    def __init__(self) -> None:
        pass


class _UnfinishedRetry(Retry):
    """Forgets to call its base class."""

    def __init__(self) -> None:
        pass


class _Suspicious(type):
    """Raises when asked about subclasses."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        raise KeyboardInterrupt


class _Asked(Exception, metaclass=_Suspicious):
    """Its class raises."""


class _Secretive(Retry):
    """Raises whatever is asked of it."""

    def __getattribute__(self, name: str) -> object:
        raise SystemExit(name)


class _Untrue(Exception):
    """Has no truth."""

    def __bool__(self) -> bool:
        raise KeyboardInterrupt


def _changed(control: Snooze | Retry, **attributes: object) -> Snooze | Retry:
    for name, value in attributes.items():
        setattr(control, name, value)
    return control


def _caused() -> Retry:
    control = Retry("later")
    control.__cause__ = _Untrue()
    return control


@pytest.mark.parametrize(
    "make",
    [
        _Unfinished,
        _UnfinishedRetry,
        _Secretive,
        _Asked,
        _caused,
        lambda: _changed(Snooze(1), seconds="soon"),
        lambda: _changed(Snooze(1), seconds=math.nan),
        lambda: _changed(Retry(after=1), after=-5),
        lambda: _changed(Retry(after=1), after="abc"),
    ],
    ids=["snooze", "retry", "secretive", "asked", "cause", "seconds", "nan", "negative", "after"],
)
def test_g2_a_control_that_makes_no_sense_is_a_failure(client: MemoryClient, make: Callable[[], Exception]) -> None:
    """Whatever reading what a handler raised does, it is a failed attempt and the worker goes on."""

    def handler(payload: object) -> None:
        if payload == "bad":
            raise make()

    client.send_many("q", ["bad", "good"])
    manager = TaskManager(client, handler, "q", "d", max_workers=1, max_retries=1, dead_letter_on=[_Asked])
    report = manager.run_until_idle(20.0)
    assert (report.succeeded, report.retried, report[Outcome.FAILED]) == (1, 1, 1)


def test_g9_a_handler_whose_time_a_hook_has_used_up_is_not_started(client: MemoryClient) -> None:
    """When a plugin is slow the run times out, and the handler does not begin beside its own retry."""
    started: list[object] = []
    slow = [True]

    class Plugin:
        @hookimpl
        def qbridge_task_started(self) -> None:
            if slow.pop() if slow else False:
                while True:  # the timeout ends it
                    time.sleep(0.01)

    client.send("q", 1)
    manager = TaskManager(
        client, started.append, "q", "d", max_workers=1, max_retries=1, task_timeout=0.3, plugins=[Plugin()]
    )
    report = manager.run_until_idle(20.0)
    assert started == [1]
    assert (report.succeeded, report.retried) == (1, 1)
