"""Leases: a dead worker's tasks come back, a living one's do not."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from integration.redis.helpers import Background, Cli, MakeClient, failure, take
from qbridge_core import DeliveryLostError, Message, Reason
from qbridge_core.contract.names import suspects_queue
from qbridge_core.message import BESIDE, SUSPICIONS, SuspectFailure, meta_int
from qbridge_core.testing.base import succeeds
from qbridge_redis import RedisClient
from support.proxy import TCPProxy
from support.wait import wait_for

_HOLDER = textwrap.dedent(
    """
    import sys, time
    from qbridge_redis import RedisClient
    client = RedisClient(sys.argv[1], lease=1.0)
    client.connect()
    held = client.receive(sys.argv[2], int(sys.argv[3]), 20.0)
    print(len(held), flush=True)
    time.sleep(60)
    """
)


class Holder:
    """A process that receives and then hangs."""

    def __init__(self, url: str, queue: str, count: int) -> None:
        command = [sys.executable, "-c", _HOLDER, url, queue, str(count)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self.held = int(output.readline())

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    """Processes to kill in the end."""
    started: list[Holder] = []
    yield started
    for holder in started:
        holder.kill()


def test_g6_the_tasks_of_a_killed_process_come_back_suspected_and_charged_nothing(
    client: RedisClient, redis_url: str, queue: str, holders: list[Holder]
) -> None:
    """After the lease another worker gets them, once each: one of them may have killed it, and nobody knows which."""
    client.publish_many(queue, [Message(b"%d" % i) for i in range(5)])
    holders.append(Holder(redis_url, queue, 5))
    assert holders[0].held == 5
    holders[0].kill()
    received = []
    while len(received) < 5:
        batch = client.receive(queue, 2, 10.0)
        assert 0 < len(batch) <= 2
        received += batch
    assert sorted(d.body for d in received) == [b"%d" % i for i in range(5)]
    assert {(d.suspected, d.crashes, d.attempts, d.redelivered) for d in received} == {(True, 0, 0, True)}
    assert client.receive(queue, 5, 1.5) == []


def test_g6_a_suspect_that_is_handed_back_stays_suspected(
    client: RedisClient, redis_url: str, queue: str, holders: list[Holder]
) -> None:
    """Giving it back before it has run alone does not clear it."""
    client.publish(queue, b"x")
    holders.append(Holder(redis_url, queue, 1))
    holders[0].kill()
    client.reject(take(client, queue))
    delivery = take(client, queue)
    assert (delivery.suspected, delivery.crashes) == (True, 0)


def test_g6_crashes_add_up(client: RedisClient, redis_url: str, queue: str, holders: list[Holder]) -> None:
    """Where it runs alone, each death and the first one count, and hand-backs and retries in between keep the count."""
    side = suspects_queue(queue)
    client.declare(side)
    client.publish(side, b"x")
    holders.append(Holder(redis_url, side, 1))
    holders[0].kill()
    client.reject(take(client, side))
    delivery = take(client, side)
    assert delivery.crashes == 2
    client.reject(delivery, failure=failure(queue, attempts=1, crashes=2))
    holders.append(Holder(redis_url, side, 1))
    holders[1].kill()
    delivery = take(client, side)
    assert (delivery.crashes, delivery.attempts) == (3, 1)


def test_g6_deaths_of_a_suspect_that_may_run_beside_others_are_suspicions(
    client: RedisClient, redis_url: str, queue: str, holders: list[Holder]
) -> None:
    """No crash is counted for what is marked so, and hand-backs keep the number of suspicions."""
    side = suspects_queue(queue)
    client.declare(side)
    client.publish(side, b"x")
    client.reject(take(client, side), failure=SuspectFailure(Reason.CRASHED, task_id="t", beside=True))
    holders.append(Holder(redis_url, side, 1))
    holders[0].kill()
    for _ in range(2):
        delivery = take(client, side)
        assert (delivery.crashes, meta_int(delivery.meta, SUSPICIONS), BESIDE in delivery.meta) == (0, 1, True)
        client.reject(delivery)


def test_g11_a_long_task_is_not_taken_from_a_living_worker(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """The lease is renewed for as long as the process lives, also when it does not read."""
    client.publish(queue, b"long")
    delivery = take(client, queue)
    other = make_client(lease=1.0)
    assert other.receive(queue, 1, 3.0) == []
    client.ack(delivery)
    assert client.flush()
    assert cli("XLEN", queue) == 0


def test_g11_what_is_received_right_after_a_long_outage_is_renewed_in_time(
    make_client: MakeClient, redis_url: str, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses between tries to connect grow, but not beyond a part of a lease."""
    monkeypatch.setattr("qbridge_core.runtime.pause.random_between", lambda low, high: high)
    with TCPProxy.to(redis_url) as proxy:
        client = make_client(proxy.through(redis_url), lease=1.0)
        client.declare(queue)
        other = make_client(lease=1.0)
        proxy.refuse()
        proxy.reset()
        grown = time.monotonic() + 3.6  # where nothing limits them, one of two seconds has begun by then
        wait_for(lambda: time.monotonic() >= grown, 10.0)
        proxy.pass_through()
        other.publish(queue, b"x")
        wait_for(lambda: succeeds(lambda: client.stats(queue)), 10.0, "it does not come back")
        delivery = take(client, queue)
        assert other.receive(queue, 1, 2.5) == []
        client.ack(delivery)
        assert client.flush()


def test_a_lost_lease_is_noticed(client: RedisClient, cli: Cli, queue: str) -> None:
    """Once another consumer holds the entry, renewal says so and the reject is refused without asking the server."""
    client.publish(queue, b"x")
    delivery = take(client, queue)
    entry_id = cli("XPENDING", queue, "qbridge", "-", "+", 1)[0][0]  # type: ignore[index]
    cli("XCLAIM", queue, "qbridge", "thief", 0, entry_id)
    wait_for(lambda: delivery.tag.state.value == "lost", 5.0, "the loss is not noticed")
    with pytest.raises(DeliveryLostError):
        client.reject(delivery)


def test_nothing_is_taken_over_in_the_first_lease_after_a_connect(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """After an outage all leases have run out; their holders get the time to renew them."""
    client.publish(queue, b"x")
    cli("XREADGROUP", "GROUP", "qbridge", "somebody", "STREAMS", queue, ">")
    wait_for(lambda: cli("XPENDING", queue, "qbridge", "-", "+", 1)[0][2] > 1000, 5.0)  # type: ignore[index,operator]
    begin = time.monotonic()
    fresh = make_client(lease=1.0)
    assert take(fresh, queue).suspected
    assert time.monotonic() - begin >= 1.0


def test_a_takeover_wakes_a_waiting_receive(client: RedisClient, redis_url: str, queue: str) -> None:
    """A receive that blocks long gets a dead worker's task without being called again."""
    client.publish(queue, b"x")
    holder = Holder(redis_url, queue, 1)
    waiting = Background(lambda: client.receive(queue, 1, 20.0))
    holder.kill()
    assert [d.body for d in waiting.result()] == [b"x"]


def test_a_consumer_is_not_dropped_with_what_it_holds(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """What was lost on its way to a client that disconnects is taken over later: a bare DELCONSUMER would strand it."""
    client.publish(queue, b"first")
    client.ack(take(client, queue))
    name = cli("XINFO", "CONSUMERS", queue, "qbridge")[0][1]  # type: ignore[index]
    client.publish(queue, b"lost")
    cli("XREADGROUP", "GROUP", "qbridge", name, "STREAMS", queue, ">")  # type: ignore[arg-type]
    client.disconnect()
    assert take(make_client(lease=1.0), queue).body == b"lost"
