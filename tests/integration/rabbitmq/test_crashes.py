"""G6: deaths of workers are told from everything else for which a message is delivered again."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from pika.exceptions import StreamLostError

from integration.rabbitmq.conftest import MakeClient
from qbridge_core import Delivery, Failure, Message, Reason, TaskManager, TransientError
from qbridge_core.contract.names import suspects_queue
from qbridge_core.message import BESIDE, SUSPICIONS, SuspectFailure, meta_int
from qbridge_rabbitmq import RabbitMQClient
from qbridge_rabbitmq.consume.states import State
from qbridge_rabbitmq.recovery.poison import PoisonRule
from support.brokers import RabbitMQBroker
from support.proxy import TCPProxy
from support.wait import wait_for

QUICK = "reconnect_delay_max=0.4"  # a lock that is missing for 2.6 s will not come back
_HOLDER = textwrap.dedent(
    """
    import sys, time
    from qbridge_rabbitmq import RabbitMQClient
    url, queue, received_from, count = sys.argv[1:]
    with RabbitMQClient(url) as client:
        client.declare(queue)
        client.declare(received_from)
        print(len(client.receive(received_from, int(count), 20.0)), flush=True)
        time.sleep(120)
    """
)
Hold = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(params=["quorum", "classic"])
def url(request: pytest.FixtureRequest, amqp_url: str) -> str:
    """The run's broker, with each type of work queue."""
    return f"{amqp_url}?queue_type={request.param}&{QUICK}"


@pytest.fixture
def hold(url: str, unique_name: str) -> Iterator[Hold]:
    """Start a process that receives so many messages and holds them until it is killed."""
    processes: list[subprocess.Popen[str]] = []

    def start(received_from: str, count: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLDER, url, unique_name, received_from, str(count)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert int(process.stdout.readline()) == count
        return process

    yield start
    for process in processes:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL."""
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def with_suspect(client: RabbitMQClient, queue: str) -> str:
    """Declare a queue and its side queue, with one message in the side queue; return its name."""
    side = suspects_queue(queue)
    client.declare(queue, f"{queue}-dead")
    client.declare(side, f"{queue}-dead")
    client.publish(queue, b"x", headers={"h": "1"}, message_id="m")
    (delivery,) = client.receive(queue, 1, 10.0)
    client.reject(delivery, failure=Failure(Reason.CRASHED, task_id="m"), queue=side)
    return side


def take(client: RabbitMQClient, queue: str) -> Delivery:
    """Receive one message, asking until it is handed out."""
    return wait_for(lambda: client.receive(queue, 1, 0.0), 20.0, "it is not handed out", interval=0.1)[0]


def test_g6_what_a_dead_worker_held_is_suspected_and_charged_nothing(
    make_client: MakeClient, url: str, unique_name: str, hold: Hold
) -> None:
    """After a SIGKILL its messages come back as suspects; the broker does not tell more, so no crash is counted."""
    client = make_client(url)
    client.declare(unique_name)
    client.send_many(unique_name, range(3))
    kill(hold(unique_name, 3))
    back = [take(client, unique_name) for _ in range(3)]
    assert {(d.suspected, d.crashes, d.attempts, d.redelivered) for d in back} == {(True, 0, 0, True)}
    client.send(unique_name, "new")
    assert not take(client, unique_name).suspected


def test_g6_deaths_of_a_suspect_that_ran_alone_add_up(
    make_client: MakeClient, url: str, unique_name: str, hold: Hold
) -> None:
    """The first death alone counts twice, since it explains the one that raised the suspicion; then one by one."""
    client = make_client(url)
    side = with_suspect(client, unique_name)
    for crashes in (2, 3):
        kill(hold(side, 1))
        delivery = take(client, side)
        assert (delivery.crashes, delivery.attempts, delivery.body, delivery.message_id) == (crashes, 0, b"x", "m")
        assert dict(delivery.headers) == {"h": "1"}
        client.reject(delivery)  # handing it back changes nothing
    assert take(client, side).crashes == 3


def test_g6_deaths_of_a_suspect_that_may_run_beside_others_are_suspicions(
    make_client: MakeClient, url: str, unique_name: str, hold: Hold
) -> None:
    """No crash is counted for what is marked so, and hand-backs keep the number of suspicions."""
    client = make_client(url)
    side = with_suspect(client, unique_name)
    client.reject(take(client, side), failure=SuspectFailure(Reason.CRASHED, task_id="m", beside=True))
    client.disconnect()  # which frees its lock
    client.connect()
    kill(hold(side, 1))
    for _ in range(2):
        delivery = take(client, side)
        assert (delivery.crashes, meta_int(delivery.meta, SUSPICIONS), BESIDE in delivery.meta) == (0, 1, True)
        client.reject(delivery)


def test_g6_a_lost_connection_is_no_crash_of_a_suspect(
    make_client: MakeClient, url: str, amqp_url: str, unique_name: str
) -> None:
    """While the worker that runs a suspect lives, nobody else gets it, though the broker has it back."""
    other = make_client(url)
    side = with_suspect(other, unique_name)
    with TCPProxy.to(amqp_url) as proxy:
        worker = make_client(proxy.through(url))
        worker.declare(unique_name, f"{unique_name}-dead")
        worker.declare(side, f"{unique_name}-dead")
        delivery = take(worker, side)
        proxy.reset()
        wait_for(lambda: other.stats(side).ready == 1, 10.0, "the broker has it back")
        until = time.monotonic() + 6.0  # twice as long as a missing lock is waited for
        while time.monotonic() < until:
            assert other.receive(side, 1, 0.0) == []
            time.sleep(0.05)
        worker.ack(delivery)
        assert worker.receive(side, 1, 1.0) == []
        assert worker.flush()
        wait_for(lambda: other.stats(side).ready == 0, 10.0)
        assert other.receive(side, 1, 0.5) == []
        worker.disconnect()


def test_g6_a_settled_suspect_leaves_no_lock(make_client: MakeClient, url: str, unique_name: str) -> None:
    """The lock of a suspect goes when the next one is looked for."""
    client = make_client(url)
    side = with_suspect(client, unique_name)
    client.ack(take(client, side))
    assert client.receive(side, 1, 0.0) == []
    session = client._broker
    assert session is not None
    assert session.locks.held == set()


def test_g6_threads_that_take_suspects_of_several_queues_leave_each_others_locks_alone(
    make_client: MakeClient, url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each queue has a thread that looks for its suspects: none of them stumbles over what another has settled."""
    client = make_client(url)
    sides = [with_suspect(client, f"{unique_name}-{number}") for number in range(2)]
    for side in sides:
        client.ack(take(client, side))
    session = client._broker
    assert session is not None
    release, others = session.locks.release, [threading.Thread(target=client.receive, args=(sides[1], 1, 0.0))]

    def release_slowly(name: str) -> None:
        release(name)
        if others and name.startswith(sides[0]):
            other = others.pop()
            other.start()
            other.join()

    monkeypatch.setattr(session.locks, "release", release_slowly)
    assert client.receive(sides[0], 1, 0.0) == []
    assert not others
    assert session.locks.held == set()


def test_g8_what_a_stopping_worker_gives_back_is_not_suspected(
    make_client: MakeClient, url: str, unique_name: str
) -> None:
    """What it had read ahead and what it had not started come to others as if for the first time, once each."""
    worker = make_client(url)
    worker.declare(unique_name)
    worker.send_many(unique_name, range(50))
    worker.subscribe(unique_name, 30)
    held = worker.receive(unique_name, 5, 10.0)
    wait_for(lambda: worker.stats(unique_name).in_flight >= 30, 10.0)
    worker.unsubscribe(unique_name)
    for delivery in held:
        worker.reject(delivery)
    assert worker.flush()
    other = make_client(url)
    back = [take(other, unique_name) for _ in range(50)]
    assert len({delivery.body for delivery in back}) == 50
    assert not any(delivery.suspected or delivery.crashes or delivery.attempts for delivery in back)
    assert other.receive(unique_name, 1, 0.5) == []


def test_g8_what_comes_while_a_consumer_ends_is_not_suspected(
    make_client: MakeClient, url: str, unique_name: str
) -> None:
    """What the broker has sent before it hears of the end goes back as if nobody had seen it."""
    with TCPProxy.to(url) as proxy:
        worker, other = make_client(proxy.through(url)), make_client(url)
        worker.declare(unique_name)
        worker.subscribe(unique_name, 10)
        session = worker._broker
        assert session is not None
        consumer = session.consumers.of(unique_name)
        wait_for(lambda: consumer.state is State.CONSUMING, 20.0, "it consumes")
        proxy.slow_down(0.7)
        stopping = threading.Thread(target=worker.unsubscribe, args=(unique_name,))
        stopping.start()
        wait_for(lambda: consumer.state is State.CANCELLING, 20.0, "it ends")
        other.send_many(unique_name, [1, 2, "x" * 300_000])  # the last in several frames
        stopping.join()
        back = [take(other, unique_name) for _ in range(3)]
        assert not any(delivery.suspected or delivery.redelivered for delivery in back)
        assert other.receive(unique_name, 1, 0.5) == []


def test_g8_a_busy_consumer_that_ends_makes_no_suspects(
    make_client: MakeClient, url: str, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes no room for more meanwhile: a quorum queue delivers again, as after a death, what is on its way then."""
    monkeypatch.setattr("qbridge_rabbitmq.consume.consumer._NARROWING", 20.0)  # a machine may be busy
    worker, other = make_client(url, prefetch=20), make_client(url)
    worker.declare(unique_name)
    other.send_many(unique_name, range(1_500))
    seen: list[Delivery] = []
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set():
            for delivery in worker.receive(unique_name, 4, 0.05):
                seen.append(delivery)
                worker.ack(delivery)

    worker.subscribe(unique_name, 20)
    working = threading.Thread(target=work)
    working.start()
    for count in range(50, 550, 50):
        wait_for(lambda least=count: len(seen) > least, 20.0, "it works")
        worker.unsubscribe(unique_name)
        worker.subscribe(unique_name, 20)
    wait_for(lambda: len({delivery.body for delivery in seen}) == 1_500, 60.0, "all have come")
    stopped.set()
    working.join()
    assert not [delivery for delivery in seen if delivery.redelivered]


def test_g6_what_was_only_read_ahead_when_a_channel_ended_is_not_suspected(
    make_client: MakeClient, url: str, unique_name: str
) -> None:
    """The broker closes the channel of a worker: what nobody had taken comes again, and is known to be innocent."""
    client = make_client(url)
    client.declare(unique_name)
    client.send_many(unique_name, range(10))
    client.publish(unique_name, b"without an id")
    client.subscribe(unique_name, 20)
    session = client._broker
    assert session is not None
    consumer = session.consumers.of(unique_name)
    wait_for(lambda: consumer.in_flight >= 11, 10.0, "they are read ahead")
    channel = consumer.channel
    assert channel is not None
    session.io.post(lambda: channel.amqp.basic_ack(4711))  # the broker closes a channel for an unknown tag
    wait_for(lambda: channel.lost, 10.0)
    back: list[Delivery] = []
    wait_for(lambda: back.extend(client.receive(unique_name, 20, 0.5)) or len(back) == 11, 20.0)
    assert all(delivery.redelivered and not delivery.suspected for delivery in back)


@pytest.mark.parametrize("end", ["stop", "lost channel", "lost connection"])
def test_g6_a_suspect_that_nobody_has_run_stays_suspected(
    make_client: MakeClient, url: str, unique_name: str, hold: Hold, end: str
) -> None:
    """What a dead worker held and the next one gives back, read ahead too, or loses, though that excuses others."""
    client = make_client(url)
    client.declare(unique_name)
    client.send_many(unique_name, range(4))
    kill(hold(unique_name, 4))
    client.subscribe(unique_name, 10)
    session = client._broker
    assert session is not None
    consumer = session.consumers.of(unique_name)
    wait_for(lambda: consumer.in_flight == 4, 10.0, "they are read ahead")
    one, two = wait_for(lambda: client.receive(unique_name, 2, 1.0), 10.0)
    assert one.suspected
    client.reject(one)
    if end == "stop":
        client.reject(two, delay=0.1)
        client.unsubscribe(unique_name)
        client.flush()
        client.disconnect()
        client = make_client(url)
    else:
        channel = consumer.channel
        assert channel is not None
        if end == "lost channel":
            session.io.post(lambda: channel.amqp.basic_ack(4711))  # the broker closes a channel for an unknown tag
        else:
            session.io.post(lambda: channel.connection.abandon(StreamLostError("by the test")))
        wait_for(lambda: channel.lost, 10.0)
        client.reject(two)
        wait_for(lambda: consumer.channel not in (None, channel), 20.0, "it consumes again")
    back = [take(client, unique_name) for _ in range(4)]
    assert len({delivery.body for delivery in back}) == 4
    assert all(delivery.suspected and not delivery.crashes for delivery in back)


@pytest.mark.faults
@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
def test_g6_a_crash_of_the_broker_makes_no_suspects(
    make_client: MakeClient, private_rabbitmq: RabbitMQBroker, unique_name: str, queue_type: str
) -> None:
    """kill -9 of the broker under two workers that hold all they can: every task is done, none in the side queue."""
    url = f"{private_rabbitmq.url}?queue_type={queue_type}&prefetch=100"
    clients = [make_client(url), make_client(url)]
    side, dead = suspects_queue(unique_name), f"{unique_name}-dead"
    done: set[int] = set()
    release = threading.Event()

    def handler(payload: int) -> None:
        release.wait(60.0)
        done.add(payload)

    clients[0].declare(unique_name, dead)
    clients[0].declare(side, dead)
    declared = time.monotonic()
    clients[0].send_many(unique_name, range(1_000))
    # RabbitMQ 3.10 does not recover a quorum queue that is killed in its first seconds.
    wait_for(lambda: time.monotonic() > declared + 5, 10.0)
    moved: list[int] = []
    managers = [TaskManager(c, handler, unique_name, dead, max_workers=4, task_timeout=90.0) for c in clients]
    with managers[0], managers[1]:
        wait_for(lambda: all(c.stats(unique_name).in_flight >= 100 for c in clients), 20.0, "both hold all they can")
        private_rabbitmq.kill()
        private_rabbitmq.start()
        release.set()

        def over() -> bool:
            try:
                moved.append(clients[0].stats(side).ready + clients[1].stats(side).in_flight)
                return len(done) == 1_000 and clients[0].stats(unique_name).ready == 0
            except TransientError:
                return False

        wait_for(over, 60.0, "every task is done")
    assert max(moved) == 0
    assert clients[0].stats(dead).ready == 0


def test_g6_redelivered_messages_are_blamed_unless_there_is_a_better_reason() -> None:
    """After a loss of one's own connection nobody is suspected for a while, and until a new message comes."""
    rule = PoisonRule()
    rule.resumed(0.0)
    assert rule.blames(b"", 1.0)
    rule.connection_lost()
    rule.resumed(100.0)
    assert not any(rule.blames(b"", now) for now in (101.0, 109.0, 118.0))
    assert rule.blames(b"", 130.0), "long after the others must have been delivered again"
    rule.connection_lost()
    rule.resumed(200.0)
    rule.calm(200.1)
    assert not rule.blames(b"", 200.2), "a queue that comes back may deliver new messages first"
    rule.calm(205.1)
    assert rule.blames(b"", 205.2)


def test_g6_what_was_on_its_way_to_a_retired_consumer_is_not_suspected() -> None:
    """Holding less than before makes nobody a suspect, for as long as it may take such messages to come back."""
    rule = PoisonRule()
    rule.spare(100.0)
    rule.calm(100.0)
    assert not rule.blames(b"", 105.0)
    assert rule.blames(b"", 115.0)


def test_g6_a_whole_backlog_is_not_suspected() -> None:
    """A classic queue that survived a crash calls all its messages delivered; a quorum queue is always right."""
    rule = PoisonRule()
    assert sum(rule.blames(b"", 0.0) for _ in range(1_000)) == 300
    rule.calm(0.0)
    assert rule.blames(b"", 0.0)
    for count in (b"...x-delivery-count...", b"...x-acquired-count..."):
        assert all(rule.blames(count, 0.0) for _ in range(1_000))


def test_messages_keep_their_order_and_headers_when_handed_back(
    make_client: MakeClient, url: str, unique_name: str
) -> None:
    """Counts and headers of what a stopping worker gives back stay, and so does the order among them."""
    client = make_client(url)
    client.declare(unique_name)
    client.publish_many(unique_name, [Message(b"%d" % n, {"h": str(n)}, f"m{n}") for n in range(5)])
    for delivery in client.receive(unique_name, 5, 10.0):
        client.reject(delivery, failure=Failure(Reason.FAILED, attempts=2, first_failed_at=7.0, task_id="t"))
    client.subscribe(unique_name, 10)
    wait_for(lambda: client.stats(unique_name).in_flight == 5, 10.0)
    client.unsubscribe(unique_name)
    back = [take(client, unique_name) for _ in range(5)]
    assert [(d.body, dict(d.headers), d.message_id) for d in back] == [
        (b"%d" % n, {"h": str(n)}, f"m{n}") for n in range(5)
    ]
    assert {(d.attempts, d.first_failed_at, d.meta["x-qbridge-task-id"]) for d in back} == {(2, 7.0, "t")}
