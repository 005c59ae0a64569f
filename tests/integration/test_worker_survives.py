"""A running worker, and what happens to its queue and its broker behind its back: each time it goes on by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pika
import pytest

from qbridge_core import (
    AuthenticationError,
    BrokerBlockedError,
    Message,
    PublishUnconfirmedError,
    QBridgeError,
    QueueClient,
    QueueStats,
    TaskManager,
    TransientError,
    connect,
)
from support.brokers import Broker, RabbitMQBroker, RedisBroker
from support.wait import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(params=["rabbitmq", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker:
    """A broker of this test alone, once a RabbitMQ and once a Redis. What a test does to it it takes back."""
    broker: Broker = request.getfixturevalue(f"private_{request.param}")
    return broker


class Worked(list[Any]):
    """A handler that notes its payloads; those that say so fail."""

    def __call__(self, payload: Any) -> None:
        """Note the payload."""
        self.append(payload)
        if isinstance(payload, str) and payload.startswith("bad"):
            raise ValueError(payload)


def quick(url: str) -> str:
    """The URL with short timeouts, so that a test need not wait for the usual ones."""
    return url + ("?heartbeat=2&request_timeout=2" if url.startswith("amqp") else "?socket_timeout=1")


def publish(client: QueueClient, queue: str, payload: object) -> None:
    """Publish a task, with little patience."""
    client.publish(queue, Message.for_task(payload)[0].body, timeout=1.0)


def sent(client: QueueClient, queue: str, payload: object) -> bool:
    """Whether a task could be published now."""
    try:
        client.send(queue, payload)
    except QBridgeError:
        return False
    return True


def came(client: QueueClient, queue: str, worked: Worked, payload: object) -> bool:
    """Whether a task could be published now; one that is not confirmed is given time to come before the next try."""
    try:
        client.send(queue, payload)
    except PublishUnconfirmedError:
        began = time.monotonic()
        return bool(wait_for(lambda: payload in worked or time.monotonic() - began > 5.0, 10)) and payload in worked
    except QBridgeError:
        return False
    return True


def settled(client: QueueClient, queue: str) -> bool:
    """Whether nothing is left in the queue."""
    try:
        return client.stats(queue) == QueueStats(0, 0, 0)
    except TransientError:
        return False


def goes_on(client: QueueClient, queue: str, worked: Worked, payload: object) -> None:
    """Check that the worker does a task that is published now, as soon as that is possible, and keeps none."""
    wait_for(lambda: came(client, queue, worked, payload), 60, "publishing works again", interval=0.1)
    wait_for(lambda: payload in worked, 30, "the worker goes on")
    wait_for(lambda: settled(client, queue), 30, "nothing is left")


# ---------------------------------------------------------------------- the queue


def _delete(broker: RabbitMQBroker, queue: str, *, again: bool) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    channel = connection.channel()
    channel.queue_delete(queue)
    if again:  # another program is quicker than the worker, and has its own idea of the queue
        channel.queue_declare(queue, durable=True, arguments={"x-max-priority": 3})
    connection.close()


@pytest.mark.parametrize(
    "command",
    [
        ("FLUSHALL",),
        ("XGROUP", "DESTROY", "{queue}", "qbridge"),
        ("DEL", "{queue}", "{queue}.suspects"),
        ("SET", "{queue}", "no stream"),
        ("XTRIM", "{queue}", "MAXLEN", "0"),
    ],
    ids=lambda command: command[0],
)
def test_g14_a_redis_queue_destroyed_under_a_running_worker_is_made_again(
    redis_client: QueueClient, private_redis: RedisBroker, unique_name: str, command: tuple[str, ...]
) -> None:
    """FLUSHALL, a lost group, a deleted, trimmed or overwritten stream: the worker goes on without a restart."""
    worked = Worked()
    with TaskManager(redis_client, worked, unique_name, f"{unique_name}.dead", max_workers=2, max_retries=0):
        goes_on(redis_client, unique_name, worked, "before")
        private_redis.cli(*(part.format(queue=unique_name) for part in command))
        if command[0] == "SET":
            wait_for(lambda: not sent(redis_client, unique_name, "lost"), 10, "the queue is no queue")
            private_redis.cli("DEL", unique_name)
        goes_on(redis_client, unique_name, worked, "after")
        goes_on(redis_client, unique_name, worked, "bad")
        wait_for(lambda: len(redis_client.dead_letters(f"{unique_name}.dead")) == 1, 10, "a dead letter can be written")
    assert (worked.count("before"), worked.count("after"), worked.count("bad")) == (1, 1, 1)


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "deleted and declared by another program"])
def test_g14_a_rabbitmq_queue_destroyed_under_a_running_worker_is_used_again(
    rabbitmq_client: QueueClient, private_rabbitmq: RabbitMQBroker, unique_name: str, again: bool
) -> None:
    """The broker cancels the consumer; the worker consumes from the new queue, whoever made it."""
    worked = Worked()
    with TaskManager(rabbitmq_client, worked, unique_name, f"{unique_name}.dead", max_workers=2, max_retries=0):
        goes_on(rabbitmq_client, unique_name, worked, "before")
        _delete(private_rabbitmq, unique_name, again=again)
        goes_on(rabbitmq_client, unique_name, worked, "after")
        goes_on(rabbitmq_client, unique_name, worked, "bad")
        letters = rabbitmq_client.dead_letters
        wait_for(lambda: len(letters(f"{unique_name}.dead")) == 1, 10, "a dead letter can be written")
    assert (worked.count("before"), worked.count("after"), worked.count("bad")) == (1, 1, 1)


@pytest.fixture
def redis_client(private_redis: RedisBroker, unique_name: str) -> Iterator[QueueClient]:
    """A client of a Redis of this test alone."""
    with connect(quick(private_redis.url)) as client:
        client.declare(unique_name, f"{unique_name}.dead")
        yield client


@pytest.fixture
def rabbitmq_client(private_rabbitmq: RabbitMQBroker, unique_name: str) -> Iterator[QueueClient]:
    """A client of the node of these tests."""
    with connect(quick(private_rabbitmq.url)) as client:
        client.declare(unique_name, f"{unique_name}.dead")
        yield client


# ---------------------------------------------------------------------- the broker


def test_g14_a_suspended_broker_costs_nothing_but_time(broker: Broker, unique_name: str) -> None:
    """SIGSTOP for longer than the timeouts, then SIGCONT: each task is done once, and publishers had typed errors."""
    worked = Worked()
    with connect(broker.url) as patient:  # a busy machine may need longer to make queues than those allow
        for name in (unique_name, f"{unique_name}.suspects"):
            patient.declare(name, f"{unique_name}.dead")
    with (
        connect(quick(broker.url)) as client,
        TaskManager(client, worked, unique_name, f"{unique_name}.dead", max_workers=2, task_timeout=60.0),
    ):
        goes_on(client, unique_name, worked, "before")
        broker.suspend()
        try:
            with pytest.raises(TransientError):
                publish(client, unique_name, "unconfirmed")
            frozen = time.monotonic()
            wait_for(lambda: time.monotonic() - frozen > 4.0, 10)
        finally:
            broker.resume()
        goes_on(client, unique_name, worked, "after")
        wait_for(lambda: settled(client, unique_name), 30, "nothing is left")
    assert (worked.count("before"), worked.count("after")) == (1, 1)
    assert worked.count("unconfirmed") <= 1


def test_g14_workers_drain_a_full_broker(broker: Broker, unique_name: str) -> None:
    """Out of memory: publishers get BrokerBlockedError, workers go on; what must be copied is kept until it can be."""
    dead = f"{unique_name}.dead"
    worked = Worked()
    with connect(quick(broker.url)) as client:
        client.declare(unique_name, dead)
        tasks = [f"good-{n}" for n in range(40)] + [f"bad-{n}" for n in range(3)]
        client.send_many(unique_name, tasks)
        with ExitStack() as working:
            with _full(broker):
                wait_for(lambda: _is_blocked(client, unique_name), 30, "publishing is refused")
                manager = TaskManager(
                    client, worked, unique_name, dead, max_workers=4, max_retries=0, task_timeout=60.0
                )
                working.enter_context(manager)
                wait_for(lambda: set(tasks) <= set(worked), 60, "the workers drain the queue")
                assert _is_blocked(client, unique_name)
            goes_on(client, unique_name, worked, "after")
        assert sorted(letter.exception_message for letter in client.dead_letters(dead)) == tasks[40:]
    assert sorted(each for each in worked if each in tasks) == sorted(tasks)


@contextmanager
def _full(broker: Broker) -> Iterator[None]:
    """Have it think that its memory is full."""
    if isinstance(broker, RedisBroker):
        broker.cli("CONFIG", "SET", "maxmemory", "1mb")
        yield
        broker.cli("CONFIG", "SET", "maxmemory", "0")
        return
    assert isinstance(broker, RabbitMQBroker)
    with broker.out_of_memory():
        yield


def _is_blocked(client: QueueClient, queue: str) -> bool:
    try:
        publish(client, queue, "refused")
    except BrokerBlockedError:
        return True
    except TransientError:
        return False
    return False


def test_g14_a_redis_that_cannot_write_its_disk_is_waited_for(
    redis_client: QueueClient, private_redis: RedisBroker, unique_name: str
) -> None:
    """MISCONF: nothing can be read or settled; the worker goes on when the disk is in order again."""
    worked = Worked()
    cli = private_redis.cli
    with TaskManager(redis_client, worked, unique_name, f"{unique_name}.dead", max_workers=2, max_retries=0):
        goes_on(redis_client, unique_name, worked, "before")
        cli("CONFIG", "SET", "save", "3600 1000000")
        blocker = private_redis.base_dir / "dump.rdb"
        blocker.mkdir()
        (blocker / "file").write_text("a directory cannot be replaced by a file")
        cli("BGSAVE")
        wait_for(lambda: _refuses(redis_client, unique_name), 20, "the server refuses writes")
        (blocker / "file").unlink()
        blocker.rmdir()
        cli("BGSAVE")
        goes_on(redis_client, unique_name, worked, "after")
    assert (worked.count("before"), worked.count("after")) == (1, 1)


def _refuses(client: QueueClient, queue: str) -> bool:
    try:
        client.send(queue, "refused")
    except BrokerBlockedError:
        return True
    return False


# ---------------------------------------------------------------------- the password

OLD, NEW = "old-secret", "new-secret"


class Account:
    """A user of a broker, whose password can be changed."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def url(self, password: str) -> str:
        """The URL with this password."""
        return self.broker.url.replace("guest:guest@", "").replace("//", f"//worker:{password}@")

    def change(self, password: str) -> None:
        """Give it this password, and close its connections, as a restart of the broker would."""
        if isinstance(self.broker, RedisBroker):
            self.broker.cli("ACL", "SETUSER", "worker", "on", "resetpass", f">{password}", "~*", "&*", "+@all")
            self.broker.cli("CLIENT", "KILL", "USER", "worker")
            return
        assert isinstance(self.broker, RabbitMQBroker)
        self.broker.put_user("worker", password)
        self.broker.evaluate('rabbit_networking:close_connections(rabbit_networking:connections(), "rotated").')


def test_g14_a_rotated_password_is_an_outage_with_a_loud_log(
    broker: Broker, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A running worker tries again and says so once, and goes on when its password is right again.

    At the start the same password is an AuthenticationError. No log and no error shows either of them.
    """
    account, worked = Account(broker), Worked()
    account.change(OLD)
    with (
        connect(account.url(OLD)) as client,
        TaskManager(client, worked, unique_name, f"{unique_name}.dead", max_workers=2),
    ):
        goes_on(client, unique_name, worked, "before")
        caplog.set_level(logging.DEBUG)
        account.change(NEW)
        wait_for(lambda: _complaints(caplog), 30, "the worker says that it is refused")
        with pytest.raises(TransientError):
            publish(client, unique_name, "refused")
        assert len(_loud(caplog)) <= 3, "it says so too often"
        with pytest.raises(AuthenticationError) as caught:
            connect(account.url(OLD))
        account.change(OLD)
        goes_on(client, unique_name, worked, "after")
    assert (worked.count("before"), worked.count("after")) == (1, 1)
    assert not any(secret in f"{caught.value} {caught.value.__cause__!r} {caplog.text}" for secret in (OLD, NEW))


def _loud(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.WARNING]


def _complaints(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What is loud and names the reason."""
    words = ("refused the credentials", "ACCESS_REFUSED", "WRONGPASS")
    return [record for record in _loud(caplog) if any(word in record.getMessage() for word in words)]
