"""A lost connection is no reason to run anything twice: what comes back to the client that held it is recognized."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import pika
import pytest

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import (
    Delivery,
    DeliveryLostError,
    Failure,
    PublishUnconfirmedError,
    Reason,
    TaskManager,
    TransientError,
)
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.recovery.lost_deliveries import LostDeliveries
from qbridge_rabbitmq.state import round_trips
from qbridge_rabbitmq.state.in_flight import Arrival, DeliveryChannel
from support.brokers import RabbitMQBroker
from support.proxy import TCPProxy
from support.wait import wait_for

TASKS = 30
WORKERS = 10


@pytest.fixture
def proxy(amqp_url: str) -> Iterator[TCPProxy]:
    """A proxy to the run's broker."""
    with TCPProxy.to(amqp_url) as proxy:
        yield proxy


@pytest.fixture
def cut_off(make_client: MakeClient, proxy: TCPProxy, amqp_url: str) -> RabbitMQClient:
    """A client whose connections can be cut."""
    return make_client(proxy.through(amqp_url), reconnect_delay_max=0.3)


class Held:
    """A handler whose runs wait for a signal; it counts how often each payload began and ended."""

    def __init__(self) -> None:
        self.started = Counter[Any]()
        self.ended = Counter[Any]()
        self.release = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, payload: Any) -> None:
        """Run."""
        with self._lock:
            self.started[payload] += 1
        assert self.release.wait(60.0)
        with self._lock:
            self.ended[payload] += 1


def delivery_channel(client: RabbitMQClient, queue: str) -> DeliveryChannel | None:
    """What the broker's current channel for the queue has delivered."""
    session = client._broker
    assert session is not None
    return session.consumers.of(queue).channel


def lose(client: RabbitMQClient, queue: str, how: Callable[[], object]) -> None:
    """Do what ends the connection, and wait until the client knows."""
    before = delivery_channel(client, queue)
    assert before is not None
    how()
    wait_for(lambda: before.lost, 20.0, "the loss is noticed")


def is_empty(client: RabbitMQClient, queue: str) -> bool:
    """True when nothing is left of the queue; False while the broker cannot say."""
    try:
        stats = client.stats(queue)
    except TransientError:
        return False
    return stats.ready == stats.in_flight == stats.delayed == 0


def refuse_and_reset(proxy: TCPProxy) -> None:
    """Cut the connections and let nobody in."""
    proxy.refuse()
    proxy.reset()


def test_g3_running_handlers_survive_a_cut_connection(
    make_client: MakeClient, proxy: TCPProxy, cut_off: RabbitMQClient, amqp_url: str, unique_name: str
) -> None:
    """Ten handlers run while the connection is cut, twice: each task runs exactly once."""
    handler = Held()
    dead = f"{unique_name}-dead"
    with TaskManager(cut_off, handler, unique_name, dead, max_workers=WORKERS, task_timeout=60.0):
        make_client(amqp_url).send_many(unique_name, range(TASKS))
        wait_for(lambda: len(handler.started) == WORKERS, 10.0)
        for _ in range(2):
            lose(cut_off, unique_name, proxy.reset)
            wait_for(
                lambda: (now := delivery_channel(cut_off, unique_name)) and len(now.unsettled) >= WORKERS,
                10.0,
                "they come",
            )
        handler.release.set()
        wait_for(lambda: len(handler.ended) == TASKS, 20.0, "every task is done")
        wait_for(lambda: is_empty(cut_off, unique_name), 20.0, "the queue is empty at the end")
    assert set(handler.started.values()) == {1}
    assert cut_off.stats(dead).ready == 0


@pytest.mark.faults
def test_g3_running_handlers_survive_a_crash_of_the_broker(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str
) -> None:
    """Ten handlers run over a kill -9 and a restart of the broker; some end before it is back. Each runs once."""
    handler = Held()
    client = make_client(private_rabbitmq.url)
    client.declare(unique_name, f"{unique_name}-dead")
    declared = time.monotonic()
    client.send_many(unique_name, range(TASKS))
    # RabbitMQ 3.10 does not recover a quorum queue that is killed in its first seconds.
    wait_for(lambda: time.monotonic() > declared + 5, 10.0)
    with TaskManager(
        client, handler, unique_name, f"{unique_name}-dead", max_workers=WORKERS, task_timeout=60.0
    ) as manager:
        wait_for(lambda: len(handler.started) == WORKERS, 10.0)
        lose(client, unique_name, private_rabbitmq.kill)
        handler.release.set()
        wait_for(lambda: len(handler.ended) == WORKERS, 10.0)
        private_rabbitmq.start()
        wait_for(lambda: len(handler.ended) == TASKS, 30.0, "every task is done")
        wait_for(lambda: is_empty(client, unique_name), 30.0, "the queue is empty at the end")
        assert manager.report().succeeded == TASKS
    assert set(handler.started.values()) == {1}
    assert client.stats(f"{unique_name}-dead").ready == 0


def test_g3_a_failure_while_disconnected_is_counted_once(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str
) -> None:
    """``reject`` without a connection returns; when the message is back it is retried, with one more attempt."""
    cut_off.declare(unique_name, f"{unique_name}-dead")
    cut_off.publish(unique_name, b"x", message_id="m")
    cut_off.subscribe(unique_name, 10)
    for attempt in (1, 2, 3):
        (delivery,) = cut_off.receive(unique_name, 1, 10.0)
        assert delivery.attempts == attempt - 1
        lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
        cut_off.reject(delivery, failure=Failure(Reason.FAILED, attempts=attempt, source_queue=unique_name))
        cut_off.ack(delivery)  # a second settlement does nothing
        proxy.pass_through()
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    assert delivery.attempts == 3
    cut_off.ack(delivery)
    wait_for(lambda: is_empty(cut_off, unique_name), 10.0)
    assert cut_off.stats(f"{unique_name}-dead").ready == 0


def test_g3_a_dead_letter_while_disconnected_arrives_once(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str
) -> None:
    """``reject(requeue=False)`` without a connection dead-letters the message with its reason when it is back."""
    dead = f"{unique_name}-dead"
    cut_off.declare(unique_name, dead)
    cut_off.publish(unique_name, b"x", message_id="m")
    cut_off.subscribe(unique_name, 10)
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
    cut_off.reject(delivery, requeue=False, failure=Failure(Reason.TIMED_OUT, attempts=4, source_queue=unique_name))
    proxy.pass_through()
    assert cut_off.receive(unique_name, 1, 2.0) == []
    wait_for(lambda: is_empty(cut_off, unique_name), 10.0)
    assert [(letter.reason, letter.attempts) for letter in cut_off.dead_letters(dead)] == [(Reason.TIMED_OUT, 4)]


def test_g3_a_task_that_fails_over_a_cut_runs_exactly_as_often_as_it_may(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str
) -> None:
    """With the connection cut under each failing run, max_retries=3 still means four runs and one dead letter."""
    runs: list[object] = []

    def handler(payload: object) -> None:
        runs.append(payload)
        lose(cut_off, unique_name, proxy.reset)
        raise ValueError("always")

    dead = f"{unique_name}-dead"
    with TaskManager(cut_off, handler, unique_name, dead, max_retries=3, max_workers=1, task_timeout=60.0):
        wait_for(lambda: delivery_channel(cut_off, unique_name), 10.0)
        cut_off.send(unique_name, 1)

        def buried() -> bool:
            try:
                return cut_off.stats(dead).ready > 0
            except TransientError:
                return False

        wait_for(buried, 40.0, "it is dead-lettered")
        wait_for(lambda: is_empty(cut_off, unique_name), 20.0)
    assert len(runs) == 4
    assert [letter.attempts for letter in cut_off.dead_letters(dead)] == [4]


def test_g3_a_hand_back_while_disconnected_is_handed_out_again(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str
) -> None:
    """What is given back without a connection is no run: the message comes once more, nothing counted."""
    cut_off.declare(unique_name)
    cut_off.publish(unique_name, b"x", message_id="m")
    cut_off.subscribe(unique_name, 10)
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
    cut_off.reject(delivery)
    proxy.pass_through()
    (again,) = cut_off.receive(unique_name, 10, 10.0)
    assert (again.body, again.attempts) == (b"x", 0)


def test_g3_an_acknowledgement_lost_on_the_way_is_sent_again(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str
) -> None:
    """The acknowledgement vanishes with the connection: the message that comes back is not handed out."""
    cut_off.declare(unique_name)
    cut_off.publish(unique_name, b"x", message_id="m")
    cut_off.subscribe(unique_name, 10)
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    proxy.blackhole()
    cut_off.ack(delivery)
    assert not cut_off.flush(0.2)
    lose(cut_off, unique_name, proxy.reset)
    proxy.pass_through()
    assert cut_off.receive(unique_name, 1, 2.0) == []
    wait_for(lambda: is_empty(cut_off, unique_name), 10.0)


@pytest.mark.parametrize("subscribed", [True, False])
def test_g3_an_acknowledgement_while_disconnected_is_kept(
    proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str, subscribed: bool
) -> None:
    """``ack`` without a connection counts, with a consumer and without."""
    cut_off.declare(unique_name)
    cut_off.publish(unique_name, b"x", message_id="m")
    if subscribed:
        cut_off.subscribe(unique_name, 10)
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
    cut_off.ack(delivery)
    cut_off.ack(delivery)
    proxy.pass_through()
    assert cut_off.receive(unique_name, 1, 2.0) == []
    wait_for(lambda: is_empty(cut_off, unique_name), 10.0)


def test_g3_two_messages_with_one_id_are_both_run(proxy: TCPProxy, cut_off: RabbitMQClient, unique_name: str) -> None:
    """Different bodies are different messages, also when both are held, and when equal ones are held twice."""
    handler = Held()
    with TaskManager(cut_off, handler, unique_name, f"{unique_name}-dead", max_workers=3, task_timeout=60.0):
        for payload in (b"1", b"2", b"2", b"3"):
            cut_off.publish(unique_name, b'{"payload": %s}' % payload, message_id="same")
        wait_for(lambda: handler.started.total() == 3, 10.0)
        lose(cut_off, unique_name, proxy.reset)
        wait_for(
            lambda: (now := delivery_channel(cut_off, unique_name)) and len(now.unsettled) >= 3, 10.0, "they come back"
        )
        handler.release.set()
        wait_for(lambda: handler.ended.total() == 4, 10.0)
        wait_for(lambda: is_empty(cut_off, unique_name), 10.0)
    assert handler.started == {1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize("kind", ["another body", "a copy"])
def test_g3_a_remembered_message_swallows_no_other(
    make_client: MakeClient, proxy: TCPProxy, cut_off: RabbitMQClient, amqp_url: str, unique_name: str, kind: str
) -> None:
    """What another consumer gave back is handed out, though a message with its id was settled before the cut."""
    cut_off.declare(unique_name)
    cut_off.publish(unique_name, b"x", message_id="same")
    (first,) = cut_off.receive(unique_name, 1, 10.0)
    if kind == "a copy":
        cut_off.reject(first, delay=0.1)
    else:
        cut_off.publish(unique_name, b"y", message_id="same")
        cut_off.ack(first)
    assert cut_off.flush()
    other = make_client(amqp_url)
    (second,) = other.receive(unique_name, 1, 10.0)
    lose(cut_off, unique_name, proxy.reset)
    other.reject(second)
    (again,) = cut_off.receive(unique_name, 1, 10.0)
    assert (again.body, again.redelivered) == (second.body, True)


@pytest.mark.parametrize("producer", ["plain pika", "QBridge"])
def test_g3_a_second_message_with_the_same_id_and_body_is_not_swallowed(
    make_client: MakeClient, proxy: TCPProxy, cut_off: RabbitMQClient, amqp_url: str, unique_name: str, producer: str
) -> None:
    """An id used twice names two messages: one is done before the cut, and the other is still delivered."""
    cut_off.declare(unique_name)
    if producer == "QBridge":
        for _ in range(2):
            cut_off.publish(unique_name, b"x", message_id="same")
    else:
        connection = pika.BlockingConnection(pika.URLParameters(amqp_url))
        for _ in range(2):
            connection.channel().basic_publish("", unique_name, b"x", pika.BasicProperties(message_id="same"))
        connection.close()
    other = make_client(amqp_url)
    (second,) = other.receive(unique_name, 1, 10.0)
    cut_off.subscribe(unique_name, 1)
    (first,) = cut_off.receive(unique_name, 1, 10.0)
    cut_off.ack(first)
    assert cut_off.flush()
    lose(cut_off, unique_name, proxy.reset)
    other.reject(second)
    (again,) = cut_off.receive(unique_name, 1, 10.0)
    assert (again.body, again.redelivered) == (b"x", True)


@pytest.mark.parametrize("how", ["flush", "by and by"])
def test_g3_what_is_published_again_after_it_was_done_is_not_swallowed(
    proxy: TCPProxy,
    cut_off: RabbitMQClient,
    channel: Any,
    unique_name: str,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An acknowledgement that the broker has seen is forgotten: an equal message that somebody gave back is another."""
    monkeypatch.setattr(round_trips, "_SETTLING", 0.5)
    cut_off.declare(unique_name)
    cut_off.publish(unique_name, b"x", message_id="same")
    method, properties, body = channel.basic_get(unique_name)
    channel.basic_nack(method.delivery_tag)
    cut_off.subscribe(unique_name, 1)
    (first,) = cut_off.receive(unique_name, 1, 10.0)
    cut_off.ack(first)
    if how == "flush":
        assert cut_off.flush()
    known = delivery_channel(cut_off, unique_name)
    assert known is not None
    wait_for(lambda: not known.has_unproven, 20.0, "the broker has seen it")
    lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
    channel.basic_publish("", unique_name, body, properties)
    wait_for(lambda: (got := channel.basic_get(unique_name))[0] and channel.basic_nack(got[0].delivery_tag) is None)
    proxy.pass_through()
    (again,) = cut_off.receive(unique_name, 1, 10.0)
    assert (again.body, again.redelivered) == (b"x", True)


def test_g3_another_consumer_gets_what_does_not_come_back(
    make_client: MakeClient, proxy: TCPProxy, cut_off: RabbitMQClient, amqp_url: str, unique_name: str
) -> None:
    """An outcome recorded without a connection binds nobody else: the message stays whole wherever it goes."""
    cut_off.declare(unique_name, f"{unique_name}-dead")
    cut_off.publish(unique_name, b"x", message_id="m")
    cut_off.subscribe(unique_name, 10)
    (delivery,) = cut_off.receive(unique_name, 1, 10.0)
    lose(cut_off, unique_name, lambda: refuse_and_reset(proxy))
    cut_off.reject(delivery, requeue=False)
    other = make_client(amqp_url)
    (elsewhere,) = other.receive(unique_name, 1, 10.0)
    proxy.pass_through()
    wait_for(lambda: delivery_channel(cut_off, unique_name), 10.0)
    assert elsewhere.body == b"x"
    other.ack(elsewhere)
    wait_for(lambda: is_empty(other, unique_name), 10.0)
    assert other.stats(f"{unique_name}-dead").ready == 0


def _in_flight(lost_deliveries: LostDeliveries, count: int) -> list[Delivery]:
    """Lose a channel on which so many deliveries are held and as many acknowledgements are on their way."""
    channel = DeliveryChannel(cast(Any, None), cast(Any, None), "q")
    deliveries = []
    for number in range(2 * count):
        arrival = Arrival(channel, number, False, headers.fresh({}, str(number)), b"%d" % number)
        delivery = Delivery(arrival.body, "q", message_id=str(number), tag=arrival)
        deliveries.append(delivery)
    assert channel.hand_out(deliveries)
    for delivery in deliveries[count:]:
        assert channel.claim_and_finish(delivery.tag.number)
    lost_deliveries.adopt(channel)
    return deliveries[:count]


def test_g3_the_memory_is_bounded_in_size() -> None:
    """Beyond the bound the oldest are forgotten, and settling one of those is an error again."""
    lost_deliveries = LostDeliveries(max_entries=100)
    deliveries = _in_flight(lost_deliveries, 150)
    assert len(lost_deliveries) == 200
    with pytest.raises(DeliveryLostError):
        deliveries[0].tag.channel.claim(deliveries[0].tag.number)
    assert deliveries[-1].tag.channel.claim(deliveries[-1].tag.number) is None
    for _ in range(5):
        _in_flight(lost_deliveries, 150)
    assert len(lost_deliveries) == 200


def test_g3_the_memory_is_bounded_in_age() -> None:
    """After a while everything is forgotten."""
    lost_deliveries = LostDeliveries(max_age=0.0)
    (delivery,) = _in_flight(lost_deliveries, 1)
    lost_deliveries.expire()
    assert len(lost_deliveries) == 0
    assert lost_deliveries.is_empty
    with pytest.raises(DeliveryLostError):
        delivery.tag.channel.claim_and_finish(delivery.tag.number)


def twins(client: RabbitMQClient, proxy: TCPProxy, queue: str) -> None:
    """Have the queue hold two copies of one retry, because the first confirmation did not come in time."""
    client.declare(queue)
    client.publish(queue, b"{}", message_id="m")
    (delivery,) = client.receive(queue, 1, 10.0)
    failure = Failure(Reason.FAILED, attempts=1, first_failed_at=1.0, last_failed_at=1.0)
    proxy.blackhole()
    with pytest.raises(PublishUnconfirmedError):
        client.reject(delivery, requeue=True, failure=failure)
    proxy.pass_through()
    wait_for(lambda: ready(client, queue) == 1, 20.0, "the first copy was on its way")
    client.reject(delivery, requeue=True, failure=failure)
    wait_for(lambda: ready(client, queue) == 2, 20.0, "there is a second copy")


def ready(client: RabbitMQClient, queue: str) -> int:
    """How many messages wait; -1 while the broker cannot say."""
    try:
        return client.stats(queue).ready
    except TransientError:
        return -1


def test_g3_a_retry_that_was_published_twice_is_handed_out_once(
    make_client: MakeClient, proxy: TCPProxy, amqp_url: str, unique_name: str
) -> None:
    """Of two copies that the broker has because a confirmation was lost, the second is acknowledged unseen."""
    client = make_client(proxy.through(amqp_url), publish_timeout=1.0, heartbeat=30)
    twins(client, proxy, unique_name)
    deliveries = client.receive(unique_name, 2, 10.0)
    assert [delivery.attempts for delivery in deliveries] == [1]
    client.ack(deliveries[0])
    assert client.receive(unique_name, 2, 1.0) == []
    wait_for(lambda: is_empty(client, unique_name), 10.0, "both have left the queue")


def test_g2_the_second_copy_counts_when_the_first_was_given_back(
    make_client: MakeClient, proxy: TCPProxy, amqp_url: str, unique_name: str
) -> None:
    """A copy that was handed back and a twin that comes after it: at least one of them is run."""
    client = make_client(proxy.through(amqp_url), publish_timeout=1.0, heartbeat=30)
    twins(client, proxy, unique_name)
    (first,) = client.receive(unique_name, 1, 10.0)
    client.reject(first, requeue=True)
    client.flush()
    (again,) = client.receive(unique_name, 1, 10.0)
    assert (again.body, again.attempts) == (b"{}", 1)
    client.ack(again)


def delayed_copy(client: RabbitMQClient, channel: Any, queue: str) -> Callable[[], None]:
    """Have a retry held back, take it out of its delay, and return what lets a copy of it come out of there again."""
    client.declare(queue)
    client.publish(queue, b"{}", message_id="m")
    (delivery,) = client.receive(queue, 1, 10.0)
    units = 1 << 6  # 6.4 s: time enough to take it
    client.reject(delivery, requeue=True, delay=units * delays.UNIT_MS / 1000, failure=failed(1))
    level = delays.name(queue, delays.top_level(units))
    _, properties, body = channel.basic_get(level, auto_ack=True)
    assert body == b"{}"
    return lambda: channel.basic_publish(delays.name(queue, 0), delays.routing_key(1), body, properties)


def failed(attempts: int) -> Failure:
    """What the last of these runs leaves."""
    return Failure(Reason.FAILED, attempts=attempts, first_failed_at=1.0, last_failed_at=1.0)


def test_g15_a_receive_that_finds_a_twin_goes_on_to_the_next_message(
    client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """One call that may wait comes back with a task, and not with nothing because the first message was a twin."""
    let_one_out = delayed_copy(client, channel, unique_name)
    let_one_out()
    (first,) = client.receive(unique_name, 1, 10.0)
    let_one_out()
    wait_for(lambda: ready(client, unique_name) == 1, 10.0, "its twin is there")
    client.publish(unique_name, b"next")
    (second,) = client.receive(unique_name, 1, 10.0)
    assert (first.body, second.body) == (b"{}", b"next")


def test_g3_a_delayed_retry_that_the_broker_doubled_is_handed_out_once(
    client: RabbitMQClient, channel: Any, unique_name: str
) -> None:
    """A broker that crashes may transfer a message from a delay to its queue twice; both have the same mark."""
    send = delayed_copy(client, channel, unique_name)
    send()
    send()
    (delivery,) = client.receive(unique_name, 1, 10.0)
    assert (delivery.body, delivery.attempts) == (b"{}", 1)
    client.ack(delivery)
    send()
    more: list[Delivery] = []

    def all_gone() -> bool:
        more.extend(client.receive(unique_name, 2, 0.1))
        return is_empty(client, unique_name)

    wait_for(all_gone, 20.0, "all have left the queue")
    assert more == []


def test_g2_a_doubled_retry_takes_the_place_of_one_that_the_broker_forgot(
    cut_off: RabbitMQClient, proxy: TCPProxy, channel: Any, unique_name: str
) -> None:
    """The first of two was handed out and then lost by the broker: what becomes of its run counts for the second."""
    send = delayed_copy(cut_off, channel, unique_name)
    send()
    (first,) = cut_off.receive(unique_name, 1, 10.0)
    proxy.refuse()
    lose(cut_off, unique_name, proxy.reset)
    wait_for(lambda: channel.basic_get(unique_name, auto_ack=True)[0], 10.0, "the broker has it back")
    send()
    proxy.pass_through()
    cut_off.reject(first, requeue=True, failure=failed(2))
    (again,) = wait_for(lambda: receive(cut_off, unique_name), 20.0, "it is tried again")
    assert again.attempts == 2
    cut_off.ack(again)
    wait_for(lambda: is_empty(cut_off, unique_name), 10.0, "nothing is left")


def receive(client: RabbitMQClient, queue: str) -> list[Delivery]:
    """What comes within a second, also while there is no connection."""
    try:
        return client.receive(queue, 1, 1.0)
    except TransientError:
        return []
