"""Delays: held by the broker, precise, and none holds up another."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    ConfigurationError,
    ConstantBackoff,
    Failure,
    Reason,
    TaskManager,
    TransientError,
    UnroutableError,
)
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.publish.publisher import Batch
from qbridge_rabbitmq.queues import delays, pending_delays
from qbridge_rabbitmq.queues.declarations import Declarations
from support.brokers import RabbitMQBroker
from support.proxy import TCPProxy
from support.wait import wait_for


@pytest.mark.parametrize(
    ("seconds", "units"),
    [(0.0, 0), (1e-9, 1), (0.001, 1), (0.1, 1), (0.3, 3), (0.31, 4), (0.7, 7), (1.1, 11), (60, 600), (86_400, 864_000)],
)
def test_a_delay_is_rounded_up_to_a_unit(seconds: float, units: int) -> None:
    """No message is early, and floating point does not add a unit."""
    assert delays.units(seconds) == units


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), delays.MAX_SECONDS + 1])
def test_a_delay_that_cannot_be_held_is_an_error(client: RabbitMQClient, unique_name: str, seconds: float) -> None:
    """What the levels cannot hold is refused, not shortened."""
    client.declare(unique_name)
    with pytest.raises(ConfigurationError):
        client.publish(unique_name, b"x", delay=seconds)


def test_g7_delays_end_in_their_own_order(client: RabbitMQClient, unique_name: str) -> None:
    """Messages with delays of all sizes come when their own time is over, at most a moment late."""
    client.declare(unique_name)
    wanted = [1.5, 0.1, 0.9, 0.4, 2.3, 1.1, 0.6, 60.0]
    client.publish(unique_name, b"60.0", delay=60.0)  # creates all levels, so that it does not count as lateness
    due: dict[bytes, tuple[float, float]] = {}  # at the earliest and at the latest: publishing takes time
    for delay in wanted[:-1]:
        begin = time.monotonic()
        client.publish(unique_name, str(delay).encode(), delay=delay)
        due[str(delay).encode()] = begin + delay, time.monotonic() + delay
    stats = client.stats(unique_name)
    assert stats.delayed + stats.ready >= len(wanted), "the shortest delay may be over"
    order = []
    client.subscribe(unique_name, 10)
    while len(order) < 7:
        for delivery in client.receive(unique_name, 10, 10.0):
            now, (earliest, latest) = time.monotonic(), due[delivery.body]
            # A busy machine makes it late; behind the message of a minute it would be later by far.
            assert earliest - 0.01 < now < latest + 3.0, f"{delivery.body!r} came {now - latest:+.3f} s late"
            order.append(float(delivery.body))
            client.ack(delivery)
    assert order == sorted(wanted[:-1])
    assert client.stats(unique_name).delayed == 1


def test_delays_leave_no_trace_on_the_message(client: RabbitMQClient, unique_name: str) -> None:
    """The way through the levels is not among the producer's headers, and a retry does not pile it up."""
    client.declare(unique_name, f"{unique_name}-dead")
    client.publish(unique_name, b"x", headers={"h": "1"}, message_id="m", delay=0.3)
    for attempt in (1, 2):
        (delivery,) = client.receive(unique_name, 1, 10.0)
        assert (dict(delivery.headers), delivery.message_id) == ({"h": "1"}, "m")
        client.reject(delivery, delay=0.3, failure=Failure(Reason.FAILED, attempts=attempt))
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert (dict(delivery.headers), delivery.attempts) == ({"h": "1"}, 2)
    client.reject(delivery, requeue=False)
    (letter,) = client.dead_letters(f"{unique_name}-dead")
    assert (dict(letter.headers), letter.source_queue, letter.reason) == ({"h": "1"}, unique_name, Reason.REJECTED)


def test_another_client_sees_what_is_delayed(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, unique_name: str
) -> None:
    """``stats`` counts delayed messages that somebody else published."""
    client.declare(unique_name)
    client.publish(unique_name, b"x", delay=30.0)
    assert make_client(amqp_url).stats(unique_name).delayed == 1


def test_deleted_levels_are_made_again(client: RabbitMQClient, channel: Any, unique_name: str) -> None:
    """When somebody deletes the queues or exchanges of the delays, the next delayed message creates them."""
    client.declare(unique_name)
    client.publish(unique_name, b"1", delay=0.1)
    assert client.receive(unique_name, 1, 10.0)[0].body == b"1"
    channel.queue_delete(delays.name(unique_name, 0))
    client.publish(unique_name, b"2", delay=0.1)
    assert client.receive(unique_name, 1, 10.0)[0].body == b"2"
    channel.exchange_delete(delays.name(unique_name, 0))
    client.publish(unique_name, b"3", delay=0.1)
    assert client.receive(unique_name, 1, 10.0)[0].body == b"3"


def test_a_delay_for_a_missing_queue_is_an_error(client: RabbitMQClient, unique_name: str) -> None:
    """A delayed message must not wait for a queue that is not there, and nothing is created for it."""
    with pytest.raises(UnroutableError):
        client.publish(unique_name, b"x", delay=1.0)
    assert client.stats(unique_name).delayed == 0


def test_a_queue_that_is_declared_anew_gets_its_delayed_messages(
    make_client: MakeClient, client: RabbitMQClient, channel: Any, amqp_url: str, unique_name: str
) -> None:
    """Delayed messages outlive their work queue, and another client's ``declare`` connects them again."""
    client.declare(unique_name)
    client.publish(unique_name, b"x", delay=3.0)
    channel.queue_delete(unique_name)
    other = make_client(amqp_url)
    other.declare(unique_name)
    assert other.receive(unique_name, 1, 10.0)[0].body == b"x"


@pytest.mark.faults
@pytest.mark.timeout(330)
def test_g7_delayed_messages_survive_a_crash_of_the_broker(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """The broker holds the delays: after kill -9 and a restart every message comes."""
    client = make_client(private_rabbitmq.url)
    client.declare(unique_name)
    client.publish(unique_name, b"first", delay=0.1)
    client.ack(client.receive(unique_name, 1, 10.0)[0])
    client.publish(unique_name, b"creates the levels", delay=6.0)
    # RabbitMQ 3.10 does not find a quorum queue again that was declared in the second before the crash.
    assert client.receive(unique_name, 1, 20.0)
    for n in range(20):
        client.publish(unique_name, b"%d" % n, delay=1.0 + n / 5)
    private_rabbitmq.kill()
    private_rabbitmq.start()
    seen: set[bytes] = set()

    def all_seen() -> bool:
        try:
            seen.update(delivery.body for delivery in client.receive(unique_name, 50, 1.0))
        except TransientError:
            return False
        return len(seen - {b"creates the levels"}) == 20

    # Where the target was not up yet when a delay ended, the level tries again after 180 s
    # (rabbitmq.com/docs/quorum-queues). Seen once in 16 crashes on a busy machine: late, never lost.
    wait_for(all_seen, 240.0, "delayed messages are missing after the crash")


def test_g7_delays_that_the_broker_does_not_confirm_are_left_alone_for_a_while() -> None:
    """After two in a row without an answer tasks are retried without delay, and a delay is tried once a minute."""
    breaker = delays.Breaker()
    assert breaker.allows("q", 0.0)
    assert not breaker.failed("q", 10.0)
    assert breaker.allows("q", 11.0)
    assert breaker.failed("q", 21.0), "said once"
    assert not breaker.failed("q", 22.0)
    assert not breaker.allows("q", 23.0)
    assert breaker.allows("another", 23.0)
    assert breaker.allows("q", 83.0)
    assert not breaker.allows("q", 84.0)
    breaker.worked("q")
    assert breaker.allows("q", 85.0)


def test_g14_a_dead_queue_of_delays_does_not_stop_the_work(
    make_client: MakeClient, amqp_url: str, unique_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A delay that the broker never confirms costs a retry its delay, and no other task anything."""
    client = make_client(amqp_url, publish_timeout=1.0)
    client.declare(unique_name, f"{unique_name}-dead")
    session = client._broker
    assert session is not None
    submit = session.publisher.submit

    def swallow(batches: Sequence[Batch]) -> None:
        for batch in batches:
            if batch.messages[0].exchange:  # as a dead queue does: no answer
                batch.sent = True
            else:
                submit([batch])

    session.publisher.submit = swallow  # type: ignore[method-assign]
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        if runs.count(payload) == 1:
            raise ValueError

    client.send_many(unique_name, range(4))
    backoff = ConstantBackoff(0.2)
    manager = TaskManager(client, handler, unique_name, f"{unique_name}-dead", backoff=backoff, max_workers=2)
    report = manager.run_until_idle(60.0)
    assert (report.succeeded, report.retried) == (4, 4)
    assert len(runs) == 8
    assert "does not confirm delays" in caplog.text


@pytest.mark.parametrize("elsewhere", [False, True], ids=["comes here", "comes elsewhere"])
def test_g14_what_was_delayed_is_not_forgotten_while_the_broker_comes_back(
    make_client: MakeClient, amqp_url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """A queue of delays that is not up yet counts as empty; what this client had put there is not gone for that."""
    monkeypatch.setattr(pending_delays, "LATE", 3.0 if elsewhere else 60.0)
    other = make_client(amqp_url)
    with TCPProxy.to(amqp_url) as proxy:
        client = make_client(proxy.through(amqp_url), reconnect_delay_max=0.2)
        client.declare(unique_name)
        client.publish(unique_name, b"early", delay=0.1)
        client.ack(client.receive(unique_name, 1, 20.0)[0])
        client.publish(unique_name, b"x", delay=5.0)
        monkeypatch.setattr(Declarations, "count_delayed", _none)
        assert client.stats(unique_name).delayed == 0, "the count can be believed"
        session = client._broker
        assert session is not None
        before = session.connections.times_connected
        proxy.reset()
        wait_for(lambda: session.connections.times_connected > before, 20.0, "connected again")
        wait_for(lambda: _delayed(client, unique_name) == 1, 20.0, "it is somewhere")
        taker = other if elsewhere else client
        (delivery,) = taker.receive(unique_name, 1, 20.0)
        assert delivery.body == b"x"
        if not elsewhere:
            assert client.stats(unique_name).delayed == 0
        taker.ack(delivery)
        taker.flush()
        wait_for(lambda: _delayed(client, unique_name) == 0, 20.0, "in the end it is believed to be gone")


def _none(self: Declarations, queue: str) -> Iterator[Any]:
    """As the broker counts what is not up."""
    del self, queue
    return 0
    yield


def _delayed(client: RabbitMQClient, queue: str) -> int:
    try:
        return client.stats(queue).delayed
    except TransientError:
        return -1


def test_all_levels_are_purged_though_one_is_missing(
    client: RabbitMQClient, make_client: MakeClient, amqp_url: str, channel: Any, unique_name: str
) -> None:
    """Somebody may have deleted a level; what was delayed before a connection was lost is not counted any more."""
    client.declare(unique_name)
    for seconds in (3600.0, 100_000.0, 0.8 * delays.MAX_SECONDS):
        client.publish(unique_name, b"x", delay=seconds)
    channel.queue_delete(delays.name(unique_name, 3))
    assert make_client(amqp_url).purge(unique_name, delayed=True) == 3
    assert client.stats(unique_name).delayed == 0
    client.publish(unique_name, b"again", delay=0.3)
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert delivery.body == b"again"


def test_what_was_purged_is_not_remembered_as_delayed(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """A client remembers what it had delayed when its connection was lost, until that is gone."""
    client = make_client(private_rabbitmq.url)
    client.declare(unique_name)
    client.publish(unique_name, b"x", delay=3600.0)
    time.sleep(1.5)  # RabbitMQ 3.10 loses a quorum queue that is killed in its first second
    private_rabbitmq.kill()
    private_rabbitmq.start()

    def purged() -> bool:
        try:
            return client.purge(unique_name, delayed=True) == 1
        except TransientError:
            return False

    wait_for(lambda: delayed_at(private_rabbitmq, make_client, unique_name) == 1, 60.0)
    wait_for(purged, 30.0)
    assert client.stats(unique_name).delayed == 0


def delayed_at(broker: RabbitMQBroker, make_client: MakeClient, queue: str) -> int | None:
    """What a client counts that remembers nothing; ``None`` while there is no broker."""
    try:
        return make_client(broker.url).stats(queue).delayed
    except TransientError:
        return None
