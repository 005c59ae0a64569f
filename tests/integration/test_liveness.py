"""``manager.health()`` on real brokers: their outages cost no life, a thread of the client that hangs does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from qbridge_core import Health, QueueClient, TaskManager, connect
from support.brokers import Broker
from support.wait import wait_for

STALL = 4.0
SILENCE = 5.0


def quick(url: str) -> str:
    """The URL with short timeouts, so that a stall may be short, too."""
    options = "heartbeat=2&request_timeout=1" if url.startswith("amqp") else "socket_timeout=1&connect_timeout=1"
    return f"{url}?publish_timeout=1&{options}"


@pytest.mark.faults
def test_g14_an_outage_is_green_and_not_ready_until_it_is_over(private_broker: Broker, unique_name: str) -> None:
    """A broker that is silent, and then dead: alive all the time, with a task that cannot be settled; then ready."""
    entered, leave = threading.Event(), threading.Event()

    def handler(_: object) -> None:
        entered.set()
        leave.wait(60)

    def state() -> Health:
        health = manager.health(stall=STALL, silence=SILENCE)
        assert health.alive, f"{health}\n{health.stack}"
        return health

    with connect(private_broker.url) as patient:  # a busy machine may need longer to make queues than those allow
        for name in (unique_name, f"{unique_name}.suspects"):
            patient.declare(name, f"{unique_name}.dead")
    client = connect(quick(private_broker.url))
    with client, TaskManager(client, handler, unique_name, f"{unique_name}.dead", max_workers=2) as manager:
        wait_for(lambda: state().ready, 30)
        client.send(unique_name, 1)
        assert entered.wait(30)
        private_broker.suspend()
        leave.set()
        began = time.monotonic()
        health = wait_for(lambda: None if (now := state()).ready else now, 60)
        assert "takes nothing: the broker has not answered for" in health.reason
        wait_for(lambda: (state(), time.monotonic() - began > 2 * STALL)[1], 60)
        private_broker.kill()
        wait_for(lambda: (state(), time.monotonic() - began > 3 * STALL)[1], 60)
        private_broker.start()
        wait_for(lambda: state().ready, 60, "it is back")


def _rabbitmq_thread(client: QueueClient, release: threading.Event) -> Callable[[], None]:
    client._broker.io.post(lambda: release.wait(60))  # type: ignore[attr-defined]
    return release.set


def _redis_maintenance(client: QueueClient, release: threading.Event) -> Callable[[], None]:
    del release
    lock: threading.Lock = client._nodes.single()._lock  # type: ignore[attr-defined]
    lock.acquire()
    client._nodes.master.maintenance.poke()  # type: ignore[attr-defined]
    return lock.release


@pytest.mark.parametrize("scheme", ["amqp", "redis"])
def test_g20_a_thread_of_the_client_that_hangs_is_red(
    scheme: str, amqp_url: str, redis_url: str, unique_name: str, release: threading.Event
) -> None:
    """The thread with the connections, or the one that keeps leases, waits for something that never comes."""
    client = connect(quick(amqp_url if scheme == "amqp" else redis_url))
    with client, TaskManager(client, print, unique_name, f"{unique_name}.dead", max_workers=2) as manager:
        wait_for(lambda: manager.health(stall=STALL).ready, 30)
        hang = _rabbitmq_thread if scheme == "amqp" else _redis_maintenance
        let_go = hang(client, release)
        try:
            health = wait_for(lambda: None if (now := manager.health(stall=STALL)).alive else now, 60)
        finally:
            let_go()
        assert ("RabbitMQ client" if scheme == "amqp" else "leases at Redis") in health.reason
        assert ("in <lambda>" if scheme == "amqp" else "with_delays") in health.stack
