"""Never run, only type-checked: what users and authors of backends write must pass ``mypy --strict``."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypedDict, assert_type

import qbridge_core
import qbridge_memory
from QBridge.task_manager import TaskManager as AnnouncedTaskManager
from qbridge_core import (
    AsyncQueueClient,
    Attempt,
    AttemptOutcome,
    BackendFactory,
    Backoff,
    Capabilities,
    ConstantBackoff,
    DeadLetter,
    DelayedMessage,
    Delivery,
    ExceptionRule,
    ExponentialBackoff,
    Failure,
    Finding,
    FindingStatus,
    Health,
    IdleTimeoutError,
    LinearBackoff,
    Message,
    Outcome,
    QueueClient,
    QueuePausedError,
    QueueStats,
    QueueUse,
    Reason,
    Reject,
    Retry,
    RetryPolicy,
    RunReport,
    Snooze,
    Supervisor,
    TaskContext,
    TaskManager,
    TransientError,
    aconnect,
    check_headers,
    connect,
    current_task,
    hookimpl,
    register_backend,
    rejection,
    run_workers,
)
from qbridge_core.testing import BackendConformance, eventually

log = logging.getLogger("example")


class Order(TypedDict):
    number: int
    items: list[str]


# ---------------------------------------------------------------------- lifespans


@contextmanager
def plain_lifespan() -> Iterator[int]:
    yield 1


@asynccontextmanager
async def async_lifespan() -> AsyncIterator[int]:
    yield 1


class Pool:
    async def __aenter__(self) -> Pool:
        return self

    async def __aexit__(self, *problem: object) -> None: ...


# ---------------------------------------------------------------------- handlers


def untyped_payload(payload: Any) -> None: ...


def any_payload(payload: object) -> None: ...


def dict_payload(payload: dict[str, object]) -> bool:
    return bool(payload)


def typed_dict_payload(payload: Order) -> str:
    return payload["items"][0]


def controlling(payload: Order) -> None:
    task = current_task()
    assert_type(task, TaskContext)
    assert_type(task.task_id, str)
    assert_type(task.attempt, int)
    assert_type(task.remaining, float)
    assert_type(task.cancelled, bool)
    assert_type(task.deadline, float)
    if payload["number"] < 0:
        raise Reject("negative")
    if not payload["items"]:
        raise Snooze(60, "empty for now")
    try:
        untyped_payload(payload)
    except OSError as exc:
        raise Retry("the service is away", after=5) from exc


def with_context(payload: Order, task: TaskContext) -> None:
    assert_type(task.headers, Mapping[str, Any])


async def async_with_context(payload: Order, task: TaskContext) -> None: ...


def three(payload: object, task: TaskContext, more: int) -> None: ...


@dataclass
class Service:
    name: str

    def __call__(self, payload: int) -> None: ...

    def handle(self, payload: int) -> None: ...


def managers(client: QueueClient) -> None:
    TaskManager(client, untyped_payload, "in", "dead")
    TaskManager(client, any_payload, "in", "dead", 3, 10.0, 4)
    TaskManager(client, dict_payload, "in", "dead", max_retries=0)
    TaskManager(client, typed_dict_payload, "in", "dead", task_timeout=10)
    TaskManager(client, Service("x"), "in", "dead", max_workers=None)
    TaskManager(client, Service("x").handle, "in", "dead", backoff=ExponentialBackoff(cap=60))
    TaskManager(client, lambda payload: print("got", payload), "in", "dead", plugins=[Plugin()])
    TaskManager(client, print, "in", "dead", dead_letter_on=[ValueError, LookupError])
    TaskManager(client, print, "in", "dead", retry_rules=[ExceptionRule(OSError, ConstantBackoff(5), max_retries=9)])
    TaskManager(client, print, "in", "dead", lifespan=plain_lifespan)
    TaskManager(client, print, "in", "dead", lifespan=async_lifespan)
    TaskManager(client, print, "in", "dead", lifespan=Pool)
    assert_type(current_task().state, Any)
    TaskManager(client, print, "in", "dead", executor="process", max_tasks_per_child=9, max_memory_per_child=2**30)
    TaskManager(client, print, "in", "dead", executor="fork")  # type: ignore[arg-type]
    TaskManager(client, print, "in", "dead", retry_rules=[OSError])  # type: ignore[list-item]
    AnnouncedTaskManager(queue_client=client, handler=controlling, input_queue="in", dead_letter_queue="dead")
    TaskManager(client, lambda: None, "in", "dead")  # type: ignore[arg-type]
    TaskManager(client, with_context, "in", "dead", redact=str.upper)
    TaskManager(client, async_with_context, "in", "dead", backoff=LinearBackoff(5, step=5, cap=60))
    TaskManager(client, three, "in", "dead")  # type: ignore[arg-type]
    TaskManager(client, print, "in", "dead", redact=len)  # type: ignore[arg-type]
    TaskManager(client, print, "in")  # type: ignore[call-arg]
    TaskManager("amqp://localhost", print, "in", "dead")  # type: ignore[arg-type]
    TaskManager(client, print, "in", "dead", backoff=2.0)  # type: ignore[arg-type]
    TaskManager(client, print, "in", "dead", max_retry=3)  # type: ignore[call-arg]


def running(client: QueueClient) -> None:
    manager = TaskManager(client, print, "in", "dead")
    manager.start()
    manager.start(poll_timeout=5)
    manager.stop()
    assert_type(manager.health(stall=60, silence=10), Health)
    assert_type(Supervisor("module:build", 1, health_file="health", stall=60).health(), Health)
    with manager as entered:
        assert_type(entered, TaskManager)
        try:
            report = entered.run_until_idle(timeout=5)
        except QueuePausedError:
            assert_type(entered.paused, bool)
            return
        except IdleTimeoutError as exc:
            log.info("left: %s", exc.report)
            return
    assert_type(report, RunReport)
    assert_type(report.succeeded, int)
    assert_type(report[Outcome.TIMED_OUT], int)
    assert_type(manager.report().counts, Mapping[Outcome, int])


# ---------------------------------------------------------------------- producers and operators


def producing() -> None:
    client = connect("amqp://localhost", heartbeat=30)
    assert_type(client, QueueClient)
    with connect("memory://") as entered:
        assert_type(entered, QueueClient)
        entered.declare("in", "dead")
    assert_type(client.send("in", {"data": "x", "id": 123}), str)
    client.send("in", None, task_id="a", delay=5, headers={"tenant": "a"})
    assert_type(client.send_many("in", [1, "a", None]), list[str])
    client.publish("in", b"{}", headers={"a": "b"}, message_id="m", delay=1, timeout=5)
    client.publish_many("in", (Message(b"1") for _ in range(3)), timeout=5)
    client.publish("in", "text")  # type: ignore[arg-type]
    client.publish("in", b"", headers={"a": 1})  # type: ignore[dict-item]
    try:
        client.purge("in")
    except TransientError as exc:
        log.warning("later: %s", exc)


async def producing_in_coroutines(inner: QueueClient) -> None:
    async with aconnect("redis://localhost", max_in_flight=10, lease=5) as client:
        assert_type(client, AsyncQueueClient)
        assert_type(await client.send("in", {"data": "x"}, delay=5, expires=9, publish_timeout=5), str)
        assert_type(await client.send_many("in", [1, "a", None]), list[str])
        await client.publish("in", b"{}", headers={"a": "b"}, timeout=5)
        await client.publish("in", "text")  # type: ignore[arg-type]
        assert_type((await client.stats("in")).ready, int)
        assert_type(await client.dead_letters("dead", after="1"), list[DeadLetter])
        assert_type(await client.replay("dead"), int)
    assert_type(await aconnect("memory://"), AsyncQueueClient)
    assert_type(AsyncQueueClient(inner).queue_client, QueueClient)
    assert_type(inner.publish_soon("in", [Message(b"")], timeout=5.0), list[Future[None]])


def operating(client: QueueClient) -> None:
    assert_type(client.stats("in"), QueueStats)
    assert_type(client.stats("in").dead, int | None)
    assert_type(client.count("in"), QueueStats)
    assert_type(client.describe("in").oldest_age, float | None)
    assert_type(client.queues(), dict[str, str | None])
    assert_type(client.dead_letters("dead"), list[DeadLetter])
    for letter in client.dead_letters("dead", limit=10):
        assert_type(letter.reason, Reason)
        assert_type(letter.first_failed_at, float | None)
        assert_type(letter.sent_at, datetime | None)
        assert_type(letter.history, tuple[Attempt, ...])
        for attempt in letter.history:
            assert_type(attempt.outcome, AttemptOutcome)
            assert_type(attempt.began_at, datetime | None)
        assert_type(letter.body, bytes)
        letter.attempts = 0  # type: ignore[misc]
    assert_type(client.replay("dead", target="in", limit=5), int)
    assert_type(client.purge("in", delayed=True), int)
    for message in client.delayed("in", 10, after="id"):
        assert_type(message, DelayedMessage)
        assert_type(message.due_at, datetime | None)
    assert_type(client.release_delayed("in"), int)
    assert_type(client.delete_delayed("in", messages=client.delayed("in")), int)
    client.pause("in")
    assert_type(client.paused(["in"]), set[str])
    assert_type(client.stats("in").paused, bool | None)
    client.resume("in")
    assert_type(qbridge_core.backends(), dict[str, str])
    qbridge_memory.reset()
    qbridge_memory.reset("name")
    assert_type(qbridge_memory.MemoryClient("memory://name").__enter__(), qbridge_memory.MemoryClient)


def build() -> TaskManager:
    return TaskManager(connect("redis://localhost"), print, "in", "dead")


def supervise() -> None:
    Supervisor(build, 4, grace_period=60).run()
    Supervisor([build, "module:build"], 4).run()
    run_workers(build(), build(), poll_timeout=1, until_idle=True)
    run_workers([build()])  # type: ignore[arg-type]
    Supervisor("module:build", processes=4).stop()
    Supervisor(lambda: 3, processes=4)  # type: ignore[arg-type, return-value]


# ---------------------------------------------------------------------- policies and plugins


class Fibonacci:
    """A backoff needs no base class."""

    def delay(self, attempt: int) -> float:
        return float(attempt if attempt < 2 else self.delay(attempt - 1) + self.delay(attempt - 2))


fibonacci: Backoff = Fibonacci()
policy = RetryPolicy(max_retries=5, backoff=ConstantBackoff(1), dead_letter_on=(ValueError,))
assert_type(policy.next_delay(1), float | None)
assert_type(policy.rule_for(ValueError()), int | None)
RetryPolicy(rules=(ExceptionRule((OSError, KeyError)), ExceptionRule(ValueError, max_retries=0)))
ExceptionRule(ValueError())  # type: ignore[arg-type]


class Plugin:
    @hookimpl
    def qbridge_task_succeeded(self, task_id: str, duration: float) -> None:
        log.info("%s took %s", task_id, duration)

    @hookimpl
    def qbridge_task_dead_lettered(self, failure: Failure) -> None:
        log.error("%s: %s", failure.reason, failure.exception_message)


# ---------------------------------------------------------------------- looking at the broker


def diagnose(client: QueueClient) -> None:
    found = client.diagnose(["a", QueueUse("b", "b.dead", task_timeout=5, workers=2)], timeout=10.0)
    assert_type(found, list[Finding])
    assert_type(found[0].status, FindingStatus)
    client.diagnose("a")  # refused when it runs: a string is a sequence of strings to a type checker


# ---------------------------------------------------------------------- backends


class MyClient(QueueClient):
    """A backend with the eight methods and ``connected``, as its author writes it."""

    capabilities = Capabilities(durable=True, shared=True)

    @property
    def connected(self) -> bool:
        return True

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None: ...

    def stats(self, queue: str) -> QueueStats:
        return QueueStats(ready=0, in_flight=0, delayed=0)

    def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,
    ) -> None:
        assert_type(check_headers(headers), Mapping[str, str])

    def receive(self, queue: str, max_messages: int = 1, timeout: float = 0.0) -> list[Delivery]:
        return [Delivery(b"", queue, tag=object())]

    def ack(self, delivery: Delivery) -> None:
        delivery.tag = None

    def reject(
        self,
        delivery: Delivery,
        requeue: bool = True,
        *,
        delay: float = 0.0,
        failure: Failure | None = None,
        queue: str | None = None,
    ) -> None:
        assert_type((failure or rejection(delivery)).dead_letter_headers(), dict[str, str | int])


class Incomplete(QueueClient):
    def connect(self) -> None: ...


Incomplete()  # type: ignore[abstract]


def create(url: str, options: Mapping[str, object]) -> QueueClient:
    return MyClient()


@hookimpl
def qbridge_backends() -> Mapping[str, BackendFactory]:
    return {"my": create}


factory: Callable[[str, Mapping[str, object]], QueueClient] = create
register_backend("my", factory)
register_backend("my", MyClient)  # type: ignore[arg-type]


class TestMyBackend(BackendConformance):
    url = "my://localhost"
    options = {"lease": 5.0}

    def create_client(self, url: str) -> MyClient:
        return MyClient()


assert_type(eventually(lambda: [1], timeout=5.0), list[int])
