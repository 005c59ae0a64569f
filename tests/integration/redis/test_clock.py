"""The server's clock is set while workers run: leases do not follow it."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import support.brokers
from integration.redis.helpers import Background, Cli, MakeClient, take
from qbridge_core import Message
from qbridge_redis import RedisClient
from qbridge_redis.connection.options import Options
from qbridge_redis.recovery.abandoned import AbandonedEntries
from qbridge_redis.recovery.takeover import LOOK_EVERY
from support.brokers import RedisBroker, find_program
from support.wait import wait_for

_SOURCE = Path(support.brokers.__file__).with_name("stepped_clock.c")
LEASE = 1.0


class SteppedRedis(RedisBroker):
    """A server whose wall clock can be set while it runs."""

    def __init__(self, base_dir: Path, library: Path) -> None:
        super().__init__(base_dir)
        self._library = library
        self._offset = self.base_dir / "offset"
        self.step(0)

    def step(self, seconds: int) -> None:
        """Set the clock so many seconds from the real one."""
        with self._offset.open("r+b" if self._offset.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))  # in place: the server has mapped it

    def _server_command(self) -> list[str]:
        settings = (f"LD_PRELOAD={self._library}", f"STEPPED_CLOCK={self._offset}")
        return ["env", *settings, *super()._server_command()]


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[SteppedRedis]:
    """A server whose clock can be set."""
    compiler = find_program("cc", "gcc", "clang")
    if not RedisBroker.available() or compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("NO C COMPILER, or no Redis, or no Linux: the clock of a server is not set for real")
    library = tmp_path / "stepped_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)], check=True)
    broker = SteppedRedis(tmp_path / "redis", library)
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.mark.parametrize("seconds", [60, -60])
def test_g11_a_step_of_the_servers_clock_takes_no_living_workers_tasks(
    stepped: SteppedRedis, make_client: MakeClient, queue: str, seconds: int
) -> None:
    """What others run stays with them, and what a dead worker held comes back after its lease all the same."""
    holder, other = make_client(stepped.url, lease=LEASE), make_client(stepped.url, lease=LEASE)
    holder.declare(queue)
    holder.publish_many(queue, [Message(b"held"), Message(b"abandoned")])
    held = take(holder, queue)
    stepped.cli("XREADGROUP", "GROUP", "qbridge", "dead", "STREAMS", queue, ">")
    waiting = Background(lambda: other.receive(queue, 2, 20.0))
    time.sleep(LEASE * 0.3)  # the step comes in the middle of a lease
    stepped.step(seconds)
    assert [d.body for d in waiting.result()] == [b"abandoned"]
    assert other.receive(queue, 2, LEASE * 2) == []
    holder.ack(held)
    assert holder.flush()


def test_g11_what_only_looks_overdue_is_not_taken_over(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """A lease that seems to have run out long ago, as after a step of the clock, is given the time to be renewed."""
    other = make_client(lease=LEASE)
    other.receive(queue, 1, LEASE)
    client.publish(queue, b"x")
    delivery = take(client, queue)
    for _ in range(3):
        _age(cli, queue, 60)
        assert other.receive(queue, 1, 0.7) == []
    client.ack(delivery)
    assert client.flush()


def test_g15_what_nobody_renews_is_taken_over_soon_after_its_lease(
    make_client: MakeClient, client: RedisClient, cli: Cli, queue: str
) -> None:
    """Looking twice costs less than another lease."""
    other = make_client(lease=LEASE)
    other.receive(queue, 1, LEASE)
    client.publish(queue, b"x")
    cli("XREADGROUP", "GROUP", "qbridge", "dead", "STREAMS", queue, ">")
    begin = time.monotonic()
    assert take(other, queue).suspected
    assert LEASE * 0.9 <= time.monotonic() - begin < LEASE * 3


def test_an_entry_is_ripe_only_when_it_was_seen_unchanged_for_longer_than_a_renewal_takes() -> None:
    """One look is never enough, whatever age it shows; a renewal, another holder or another delivery begin anew."""
    overdue = AbandonedEntries(30.0)
    overdue.look([(b"1-0", b"a", 90_000, 1), (b"2-0", b"b", 16_000, 1), (b"3-0", b"c", 90_000, 1)], 1_000_000, 0.0)
    assert overdue.ripe(10, 11.0, 5.0) == []
    assert overdue.ready_at() == 12.0
    overdue.look([(b"1-0", b"a", 101_000, 1), (b"2-0", b"b", 27_000, 1), (b"3-0", b"c", 80_000, 1)], 1_011_000, 11.0)
    assert overdue.ripe(10, 13.0, 5.0)[::5] == [b"1-0"]
    assert overdue.ripe(10, 15.0, 5.0)[::5] == [b"2-0"]
    assert overdue.ripe(10, 17.0, 5.0) == []
    assert overdue.ripe(1, 99.0, 5.0)[::5] == [b"1-0"]


@pytest.mark.parametrize("first_look", [0.0, 1.0, 2.5, 4.9])
def test_g15_with_the_default_lease_a_dead_workers_tasks_are_elsewhere_in_time(first_look: float) -> None:
    """Whenever others look, they take over what was renewed just before its worker died, within 35 of 60 seconds."""
    lease = Options().lease
    overdue, now, ready_at = AbandonedEntries(lease), first_look, math.inf
    while now < ready_at:
        idle = round(now * 1000)
        rows = [(b"1-0", b"dead", idle, 1)] if idle >= overdue.least_idle(now) else []
        overdue.look(rows, 1_000_000 + idle, now)
        ready_at = overdue.ready_at()
        now += LOOK_EVERY
    assert lease <= ready_at <= 35.0


def test_what_was_renewed_before_the_clock_was_put_back_is_watched_by_the_own_clock() -> None:
    """It seems to be renewed in the future, so that its age says nothing for as long as the step was."""
    overdue = AbandonedEntries(30.0)
    overdue.look([], 1_000_000, 0.0)
    assert overdue.least_idle(1.0) == 15_000
    overdue.look([], 941_000, 1.0)
    assert overdue.least_idle(2.0) == 0
    for now in range(2, 33, 5):
        overdue.look([(b"1-0", b"a", 0, 1), (b"2-0", b"b", now % 7, 1)], 940_000 + now * 1000, float(now))
    assert overdue.ripe(10, 32.0, 5.0)[::5] == [b"1-0"]


def _age(cli: Cli, queue: str, seconds: int) -> None:
    """Let all that is pending be so much older, as a step of the server's clock does, also when it is just renewed."""

    def aged() -> bool:
        now, _ = cli("TIME")  # type: ignore[misc]
        for entry_id, consumer, idle, count in cli("XPENDING", queue, "qbridge", "-", "+", 100):  # type: ignore[misc,union-attr]
            then = (int(now) - seconds) * 1000 - int(idle)  # type: ignore[arg-type]
            cli("XCLAIM", queue, "qbridge", consumer, 0, entry_id, "TIME", then, "RETRYCOUNT", count, "JUSTID")
        rows = cli("XPENDING", queue, "qbridge", "-", "+", 100)
        return all(row[2] >= seconds * 1000 for row in rows)  # type: ignore[union-attr,index,operator]

    wait_for(aged, 5.0)
