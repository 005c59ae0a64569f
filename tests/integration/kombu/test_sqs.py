"""What is special about Amazon SQS, on moto's server."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    Message,
    MessageTooLargeError,
    QueueClient,
    TaskManager,
    TransientError,
    connect,
)
from qbridge_kombu import KombuClient
from qbridge_kombu.transports.sqs import SQSTransport
from support.proxy import TCPProxy
from support.sqs import SQSBroker
from support.wait import wait_for
from support.worker_process import Journal

MakeClient = Callable[..., KombuClient]
FAST = {"lease": 3, "wait_time": 1}


@pytest.fixture
def client(make_client: MakeClient, sqs_server: SQSBroker) -> KombuClient:
    """A client with short leases."""
    return make_client(sqs_server.url, **FAST)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """What worker processes did; they are killed after the test."""
    journal = Journal(tmp_path / "journal")
    yield journal
    journal.close()


def receive(client: QueueClient, queue: str, count: int = 1) -> list[Any]:
    """Receive so many."""
    found: list[Any] = []

    def all_found() -> bool:
        found.extend(client.receive(queue, count - len(found), 0.5))
        return len(found) == count

    wait_for(all_found, 20, "they come")
    return found


def in_all(client: QueueClient, queue: str) -> int:
    """How many messages a queue has, in hand or not."""
    stats = client.stats(queue)
    return stats.ready + stats.in_flight


@contextmanager
def ending(event: threading.Event) -> Iterator[None]:
    """Set an event in the end, whatever happens."""
    try:
        yield
    finally:
        event.set()


# ---------------------------------------------------------------------------------------------- queues


def test_a_queue_that_is_made_keeps_messages_for_two_weeks(
    client: KombuClient, sqs_server: SQSBroker, queue: str
) -> None:
    """The service's default is four days, and a message that nobody takes until then is gone."""
    client.declare(queue)
    url = sqs_server.queue_url(queue)
    found = sqs_server.request("GetQueueAttributes", QueueUrl=url, AttributeNames=["MessageRetentionPeriod"])
    assert int(found["Attributes"]["MessageRetentionPeriod"]) == 14 * 24 * 3600


def test_a_shorter_retention_is_warned_of_and_left_alone(
    client: KombuClient, sqs_server: SQSBroker, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The queue is somebody's."""
    sqs_server.request("CreateQueue", QueueName=queue, Attributes={"MessageRetentionPeriod": "86400"})
    client.declare(queue)
    assert any(each.levelno == logging.WARNING and "after 1.0 days" in each.getMessage() for each in caplog.records)
    url = sqs_server.queue_url(queue)
    found = sqs_server.request("GetQueueAttributes", QueueUrl=url, AttributeNames=["MessageRetentionPeriod"])
    assert found["Attributes"]["MessageRetentionPeriod"] == "86400"


def test_disconnect_closes_the_connections_that_all_sessions_share(
    client: KombuClient, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3's client ends with ours, which makes another one when it connects again."""
    transport = client._transport
    assert isinstance(transport, SQSTransport)
    closed: list[str] = []
    close = transport._client.close
    monkeypatch.setattr(transport._client, "close", lambda: closed.append("closed") or close())
    client.disconnect()
    client.disconnect()
    assert closed == ["closed"]
    client.connect()
    client.declare(queue)
    client.send(queue, 1)
    client.ack(client.receive(queue, 1, 10.0)[0])


def test_a_fifo_queue_is_refused(client: KombuClient) -> None:
    """With a sentence that says why, in each call."""
    for call in (lambda: client.declare("jobs.fifo"), lambda: client.publish("jobs.fifo", b"x")):
        with pytest.raises(ConfigurationError, match="holds up all messages of a group"):
            call()


def test_names_that_the_service_cannot_have_are_kept_apart(client: KombuClient, queue: str) -> None:
    """Points, spaces and long names; kombu would make one queue of these."""
    names = [f"{queue}.dead", f"{queue}_dead", f"{queue} dead", f"{queue}_x2edead", f"{queue}-{'x' * 200}"]
    for name in names:
        client.declare(name)
        client.publish(name, name.encode())
    for name in names:
        (delivery,) = receive(client, name)
        assert delivery.body == name.encode()
        client.ack(delivery)


def test_a_redrive_policy_counts_deaths_only(client: KombuClient, sqs_server: SQSBroker, queue: str) -> None:
    """Retries and hand-backs are copies, so the service moves no message for them, and the policy stays as it is."""
    sqs_server.request("CreateQueue", QueueName=f"{queue}-moved")
    arn = f"arn:aws:sqs:us-east-1:123456789012:{queue}-moved"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    sqs_server.request("CreateQueue", QueueName=queue, Attributes={"RedrivePolicy": policy})
    client.declare(queue)
    client.publish(queue, b"x")
    for _ in range(4):
        client.reject(receive(client, queue)[0])
    assert client.flush()
    (delivery,) = receive(client, queue)
    assert not delivery.suspected
    assert client.stats(f"{queue}-moved").ready == 0


# ---------------------------------------------------------------------------------------------- messages


def test_a_foreign_message_is_its_text_and_its_attributes_are_headers(
    client: KombuClient, sqs_server: SQSBroker, queue: str
) -> None:
    """Its copy has the same; the service's id stands for the message id, and the service tells when it was sent."""
    client.declare(queue)
    times = set()
    text = '{"properties": {"colour": "red"}, "body": "ü"}'
    attributes = {"tenant": {"DataType": "String", "StringValue": "a"}, "n": {"DataType": "Number", "StringValue": "7"}}
    url = sqs_server.queue_url(queue)
    sent = sqs_server.request("SendMessage", QueueUrl=url, MessageBody=text, MessageAttributes=attributes)
    for _ in range(2):
        (delivery,) = receive(client, queue)
        assert (delivery.body.decode(), dict(delivery.headers)) == (text, {"tenant": "a", "n": "7"})
        assert delivery.message_id == sent["MessageId"]
        times.add(delivery.sent_at)
        client.reject(delivery)
    assert len(times) == 1
    assert None not in times


def test_kombu_and_the_bridge_read_each_other(client: KombuClient, sqs_server: SQSBroker, queue: str) -> None:
    """Text and bytes, with headers, in both directions."""
    from kombu import Connection, Consumer, Producer

    client.declare(queue)
    options = {"wait_time_seconds": 1, "polling_interval": 0, "is_secure": False, "region": "us-east-1"}
    address = f"sqs://key:secret@127.0.0.1:{sqs_server.port}"
    with Connection(address, transport_options=options) as connection:
        Producer(connection).publish({"payload": 1}, routing_key=queue, headers={"h": "1"}, serializer="json")
        (delivery,) = receive(client, queue)
        assert (json.loads(delivery.body), delivery.headers["h"]) == ({"payload": 1}, "1")
        client.ack(delivery)
        assert client.flush()
        seen: list[tuple[bytes, str]] = []

        def read(message: Any) -> None:
            body = message.body
            seen.append((body.encode() if isinstance(body, str) else body, message.headers["h"]))
            message.ack()

        bodies = [b'{"payload": "\xc3\xbc"}', b"\x00\xff"]
        for body in bodies:
            client.publish(queue, body, headers={"h": "2"})
        with Consumer(connection, [connection.SimpleQueue(queue).queue], on_message=read, accept=None):
            wait_for(lambda: connection.drain_events(timeout=5) or len(seen) == 2, 20, "kombu receives them")
    assert sorted(seen) == sorted((body, "2") for body in bodies)


def test_a_message_over_the_limit_of_its_queue_is_refused(
    client: KombuClient, sqs_server: SQSBroker, queue: str
) -> None:
    """Also where the queue allows less than the service; what is just below it can be dead-lettered."""
    client.declare(queue)
    with pytest.raises(MessageTooLargeError):
        client.publish(queue, b"x" * 1_000_000)
    small = f"{queue}-small"
    sqs_server.request("CreateQueue", QueueName=small, Attributes={"MaximumMessageSize": "262144"})
    with pytest.raises(MessageTooLargeError):
        client.publish(small, b"x" * 210_000)
    client.publish(small, b"x" * 190_000)
    client.reject(receive(client, small)[0], requeue=False)
    assert len(receive(client, f"{small}.dead")[0].body) == 190_000


def test_large_messages_are_divided_by_what_one_request_may_have(client: KombuClient, queue: str) -> None:
    """Ten of 300 KB are more than the service takes at once."""
    client.declare(queue)
    client.publish_many(queue, [Message(b"%d" % number + b"x" * 300_000) for number in range(10)])
    assert {delivery.body[:1] for delivery in receive(client, queue, 10)} == {b"%d" % number for number in range(10)}


# ---------------------------------------------------------------------------------------------- requests


class Counted:
    """Counts requests of a client's, and refuses some of them."""

    def __init__(self, client: KombuClient) -> None:
        self.names: list[str] = []
        self.throttled = 0
        service = client._transport._client  # type: ignore[attr-defined]
        service.meta.events.register("before-call.sqs", self._count)
        service.meta.events.register("before-send.sqs", self._send)

    def _count(self, model: Any, **_: Any) -> None:
        self.names.append(model.name)

    def _send(self, request: Any, **_: Any) -> Any:
        if not self.throttled:
            return None
        self.throttled -= 1
        from botocore.awsrequest import AWSResponse

        class Body:
            def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
                yield b'{"__type": "com.amazonaws.sqs#RequestThrottled", "message": "slow down"}'

        return AWSResponse(request.url, 400, {"Content-Type": "application/x-amz-json-1.0"}, Body())


def test_ten_messages_take_three_requests(client: KombuClient, queue: str) -> None:
    """One sends them, one receives them, one deletes them."""
    client.declare(queue)
    client.publish(queue, b"the queue is known")
    client.ack(receive(client, queue)[0])
    assert client.flush()
    counted = Counted(client)
    client.publish_many(queue, [Message(b"x")] * 10)
    sent = list(counted.names)
    deliveries = client.receive(queue, 10, 5.0)
    assert len(deliveries) == 10
    for delivery in deliveries:
        client.ack(delivery)
    assert client.flush()
    assert sent == ["SendMessageBatch"]
    assert counted.names.count("ReceiveMessage") == 1
    assert counted.names.count("DeleteMessageBatch") <= 2, "the first may go alone"


def test_throttling_is_waited_out(client: KombuClient, queue: str) -> None:
    """A request that was throttled is made again; throttled for too long is an error that may be retried."""
    client.declare(queue)
    client.publish(queue, b"the queue is known")
    counted = Counted(client)
    counted.throttled = 3
    client.publish(queue, b"x")
    assert counted.names == ["SendMessageBatch"] * 4
    assert client.stats(queue).ready == 2
    counted.throttled = 1_000
    began = time.monotonic()
    with pytest.raises(TransientError, match="throttles"):
        client.publish(queue, b"y", timeout=1.0)
    assert time.monotonic() - began < 5
    counted.throttled = 0
    assert client.stats(queue).ready == 2


# ---------------------------------------------------------------------------------------------- tasks


def test_a_task_of_three_leases_runs_once(make_client: MakeClient, sqs_server: SQSBroker, queue: str) -> None:
    """Beside another worker that waits for it, and with threads that keep the interpreter busy."""
    worker, other = make_client(sqs_server.url, lease=2), make_client(sqs_server.url, lease=2)
    worker.declare(queue)
    runs: list[object] = []
    ended = threading.Event()

    def busy(payload: object) -> None:
        runs.append(payload)
        end = time.monotonic() + 6
        while time.monotonic() < end:
            sum(range(10_000))
        ended.set()

    first, second = (TaskManager(each, busy, queue, f"{queue}-dead", max_workers=2) for each in (worker, other))
    worker.send(queue, 1)
    with first, second:
        assert ended.wait(60)
        wait_for(lambda: worker.flush() and worker.stats(queue).in_flight == 0, 20, "it is acknowledged")
    assert runs == [1]
    assert worker.stats(queue).ready == 0


def test_what_comes_twice_to_one_client_is_handed_out_once(
    make_client: MakeClient, sqs_server: SQSBroker, queue: str
) -> None:
    """The service ends a lease and delivers again: the delivery that there is has the new receipt, and settles it."""
    client = make_client(sqs_server.url, lease=30, wait_time=1)
    client.declare(queue)
    client.publish(queue, b"x")
    (delivery,) = receive(client, queue)
    receipt = delivery.tag.received.handle.receipt
    url = sqs_server.queue_url(queue)
    sqs_server.request("ChangeMessageVisibility", QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
    assert client.receive(queue, 1, 1.0) == []
    assert delivery.tag.received.handle.receipt != receipt
    client.ack(delivery)
    assert client.flush()
    assert in_all(client, queue) == 0


def test_a_task_over_twelve_hours_is_refused(client: KombuClient, queue: str) -> None:
    """The service does not lend a message for longer."""
    client.declare(queue)
    client.check_task_timeout(queue, 12 * 3600, 1)
    with pytest.raises(ConfigurationError, match="43200 s at most"):
        client.check_task_timeout(queue, 12 * 3600 + 1, 1)


@pytest.mark.faults
def test_a_killed_worker_loses_nothing_and_repeats_only_what_it_ran(
    client: KombuClient, sqs_server: SQSBroker, queue: str, journal: Journal
) -> None:
    """SIGKILL in the middle of a thousand tasks; another worker does the rest."""
    dead, url = f"{queue}-dead", f"{sqs_server.url}?lease=3&wait_time=1"
    client.declare(queue, dead)
    client.send_many(queue, [{"id": number} for number in range(1000)])
    victim = journal.start_worker(url, queue, 30)
    wait_for(lambda: sum(journal.counts("done").values()) >= 300, 60, "it is in the middle")
    victim.kill()
    victim.wait()
    begun, done = journal.counts("start"), journal.counts("done")
    journal.start_worker(url, queue, 30)
    wait_for(lambda: len(journal.counts("done")) == 1000, 100, "all are done")
    wait_for(lambda: in_all(client, queue) == 0, 20, "none is left")
    twice = {task for task, times in journal.counts("start").items() if times > 1}
    assert twice <= set(begun), "a task that the dead worker had not begun ran twice"
    assert len(twice) <= len(begun)
    assert not (set(done) - set(journal.counts("done")))
    assert client.stats(dead).ready == 0


@pytest.mark.faults
def test_an_outage_longer_than_a_lease_repeats_nothing(
    make_client: MakeClient, private_sqs: SQSBroker, queue: str
) -> None:
    """The server is stopped while tasks run; it delivers them again afterwards, to the worker that has them."""
    client = make_client(private_sqs.url, lease=2, wait_time=1, request_timeout=2.0)
    client.declare(queue)
    runs: list[object] = []
    go_on = threading.Event()

    def handler(payload: object) -> None:
        runs.append(payload)
        go_on.wait(60)

    client.send_many(queue, range(5))
    manager = TaskManager(client, handler, queue, f"{queue}-dead", max_workers=10)
    with manager, ending(go_on):
        wait_for(lambda: len(runs) == 5, 20, "they run")
        private_sqs.suspend()
        time.sleep(4)  # the subject of the test: two leases
        private_sqs.resume()
        client.send(queue, "after")
        wait_for(lambda: "after" in runs, 30, "it receives again")
        go_on.set()
        wait_for(lambda: sum(private_sqs.contents().values()) == 0, 30, "all are acknowledged")
    assert sorted(map(str, runs)) == ["0", "1", "2", "3", "4", "after"]


@pytest.mark.faults
def test_a_cut_connection_repeats_nothing(
    make_client: MakeClient, sqs_server: SQSBroker, tcp_proxy: Callable[[str], TCPProxy], queue: str
) -> None:
    """Each message that was published runs, whatever happens to the connections; those that ran do not run again."""
    proxy = tcp_proxy(sqs_server.url)
    direct, client = make_client(sqs_server.url), make_client(proxy.through(sqs_server.url), **FAST)
    client.declare(queue)
    runs: list[object] = []

    def handler(payload: object) -> None:  # one that no child process can import: what comes twice runs here, too
        runs.append(payload)

    manager = TaskManager(client, handler, queue, f"{queue}-dead", max_workers=4)
    direct.send_many(queue, range(200))
    with manager:
        for count in (40, 90, 140):
            wait_for(lambda count=count: len(runs) >= count, 60, "it works")  # type: ignore[misc]
            proxy.reset()
        wait_for(lambda: len(set(map(str, runs))) == 200, 60, "all have run")
        wait_for(lambda: direct.stats(queue).in_flight + direct.stats(queue).ready == 0, 60, "all are acknowledged")
    assert len(runs) == 200


@pytest.mark.faults
def test_a_server_that_forgets_everything_is_survived(
    make_client: MakeClient, private_sqs: SQSBroker, queue: str
) -> None:
    """The queues that were declared are made again, and the worker goes on."""
    client = make_client(private_sqs.url, **FAST, request_timeout=2.0)
    client.declare(queue)
    runs: list[object] = []
    manager = TaskManager(client, runs.append, queue, f"{queue}-dead", max_workers=2)
    with manager:
        client.send(queue, "before")
        wait_for(lambda: runs == ["before"], 20, "it works")
        private_sqs.restart()
        wait_for(lambda: _sent(client, queue, "after"), 30, "it can be sent again")
        wait_for(lambda: "after" in runs, 30, "it works again")


def _sent(client: QueueClient, queue: str, payload: str) -> bool:
    try:
        client.send(queue, payload)
    except TransientError:
        return False
    return True


def test_long_delays_wait_beside_the_queue(client: KombuClient, sqs_server: SQSBroker, queue: str) -> None:
    """What the service cannot hold is counted as delayed, and moved on when it is due."""
    client.declare(queue)
    client.publish(queue, b"short", delay=900)
    client.publish(queue, b"long", delay=901)
    assert client.stats(queue).delayed == 2
    url = sqs_server.queue_url(f"{queue}_x2edelayed")
    names = ["ApproximateNumberOfMessagesDelayed"]
    counts = sqs_server.request("GetQueueAttributes", QueueUrl=url, AttributeNames=names)["Attributes"]
    assert int(counts[names[0]]) == 1


def test_a_worker_that_is_never_idle_moves_long_delays_on(
    monkeypatch: pytest.MonkeyPatch, make_client: MakeClient, sqs_server: SQSBroker, queue: str
) -> None:
    """Step by step, not early, and out of the queue beside; steps of a second stand for those of 15 minutes."""
    monkeypatch.setattr(SQSTransport, "max_native_delay", 1.0)
    monkeypatch.setattr(SQSTransport, "delayed_look", 0.1)
    client = make_client(sqs_server.url, **FAST)
    client.declare(queue)
    began = time.monotonic()
    client.publish(queue, b"late", delay=3)

    def came() -> bool:
        client.publish(queue, b"now")
        deliveries = client.receive(queue, 10, 1.0)
        for delivery in deliveries:
            client.ack(delivery)
        return b"late" in {delivery.body for delivery in deliveries}

    wait_for(came, 20, "it comes")
    assert time.monotonic() - began >= 2.9
    assert client.flush()
    assert in_all(client, f"{queue}.delayed") == 0


def test_credentials_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, sqs_server: SQSBroker, queue: str
) -> None:
    """Where boto3 looks for them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with connect(f"kombu+sqs://127.0.0.1:{sqs_server.port}?region=eu-west-1") as client:
        client.declare(queue)
        client.send(queue, 1)
