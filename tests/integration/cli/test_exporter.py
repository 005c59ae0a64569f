"""``qbridge exporter`` on real brokers: depth for Prometheus and for those who scale, while no worker runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from integration.cli.conftest import QBridge, StartQBridge
from qbridge_core import QueueClient, connect
from support.brokers import Broker
from support.scrapes import read
from support.wait import wait_for


@pytest.fixture
def client(url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client that has declared the test's queue, with the dead-letter queue that the command supposes."""
    with connect(url) as connected:
        connected.declare(unique_name, f"{unique_name}.dead")
        yield connected
        connected.resume(unique_name)


def address_of(exporter: subprocess.Popen[str]) -> str:
    """Where it listens, as it says itself."""
    assert exporter.stderr is not None
    for line in exporter.stderr:
        if found := re.search(r"at (127\.0\.0\.1:\d+)", line):
            return f"http://{found[1]}"
    raise AssertionError("the exporter has ended")


def as_json(address: str) -> Any:
    """What a page says when it is green, else None."""
    status, body = read(address)
    return json.loads(body) if status == 200 else None


def gauges(address: str, queue: str) -> dict[str, float]:
    """What Prometheus gets of a queue, by the names of the metrics, and of the exporter itself."""
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(read(f"{address}/metrics")[1].decode())
        for sample in family.samples
        if sample.labels in ({"queue": queue}, {})
    }


def test_depth_is_shown_as_metrics_and_as_json(
    url: str, unique_name: str, client: QueueClient, start_qbridge: StartQBridge
) -> None:
    """Ready, delayed, dead and paused, and what workers have to do, which is nothing while the queue is paused."""
    client.send_many(unique_name, range(3))
    client.send(unique_name, 0, delay=600)
    address = address_of(start_qbridge("exporter", unique_name, "--url", url, "--port", "0", "--interval", "1"))
    page = f"{address}/queues/{unique_name}"
    wait_for(lambda: as_json(page), message="the exporter has looked")
    told = as_json(page)
    assert (told["ready"], told["delayed"], told["dead"], told["paused"], told["backlog"]) == (3, 1, 0, False, 3)
    assert [each["queue"] for each in as_json(f"{address}/queues")] == [unique_name]
    shown = gauges(address, unique_name)
    assert shown["qbridge_queue_ready"] == 3
    assert shown["qbridge_queue_delayed"] == 1
    assert shown["qbridge_queue_dead"] == shown["qbridge_queue_paused"] == 0
    assert shown["qbridge_exporter_up"] == 1
    assert ("qbridge_queue_oldest_age_seconds" in shown) == ("oldest_age" in client.capabilities.details)
    client.pause(unique_name)
    wait_for(lambda: as_json(page)["paused"], message="the exporter sees the pause")
    assert (as_json(page)["ready"], as_json(page)["backlog"]) == (3, 0)


def told_at_first(exporter: subprocess.Popen[str], so_many: int) -> list[str]:
    """What it says on standard error below where it listens."""
    address_of(exporter)
    assert exporter.stderr is not None
    return [exporter.stderr.readline().strip() for _ in range(so_many)]


def test_what_no_page_can_tell_is_said_at_the_first_look(
    redis_url: str, amqp_url: str, unique_name: str, start_qbridge: StartQBridge
) -> None:
    """A queue that is not there, nothing to look at, and that a backlog is without what runs."""
    with connect(redis_url) as connected:
        connected.declare(f"{unique_name}-other")  # where there is none, nothing is listed to which it could belong
    slip = start_qbridge("exporter", unique_name, "--url", redis_url, "--port", "0")
    assert told_at_first(slip, 1) == [f"there is no queue {unique_name!r}"]
    doubt, backlog = told_at_first(start_qbridge("exporter", unique_name, "--url", amqp_url, "--port", "0"), 2)
    assert f"is there a queue {unique_name!r}?" in doubt
    assert backlog == "the broker does not tell what runs, so backlog is what is ready"
    (nothing,) = told_at_first(start_qbridge("exporter", "--url", amqp_url, "--port", "0"), 1)
    assert "management_url" in nothing


def test_a_queue_that_does_not_exist_has_no_numbers(
    redis_url: str, unique_name: str, start_qbridge: StartQBridge
) -> None:
    """Zeros would look healthy; its page is a 404, and both are there when it is."""
    slip = f"{unique_name}-slip"
    with connect(redis_url) as connected:
        connected.declare(unique_name)
        exporter = start_qbridge("exporter", unique_name, slip, "--url", redis_url, "--port", "0", "--interval", "1")
        address = address_of(exporter)
        wait_for(lambda: as_json(f"{address}/queues/{unique_name}"), message="the exporter has looked")
        assert read(f"{address}/queues/{slip}")[0] == 404
        assert gauges(address, slip) == {"qbridge_exporter_up": 1}
        assert gauges(address, unique_name)["qbridge_queue_ready"] == 0
        connected.declare(slip)
        connected.send(slip, 1)
        wait_for(lambda: gauges(address, slip).get("qbridge_queue_ready") == 1, message="it is there")


@pytest.mark.faults
def test_a_broker_that_is_away_is_no_empty_queue(
    private_redis: Broker, unique_name: str, start_qbridge: StartQBridge
) -> None:
    """A broker that is not up yet is waited for; while it is away the pages are a 503, and no depth is shown."""
    private_redis.stop()
    exporter = start_qbridge("exporter", unique_name, "--url", private_redis.url, "--port", "0", "--interval", "1")
    address = address_of(exporter)
    page = f"{address}/queues/{unique_name}"
    assert read(f"{address}/queues")[0] == read(page)[0] == 503
    private_redis.start()
    wait_for(lambda: read(page)[0] == 200, 30, "the exporter finds the broker")
    assert gauges(address, unique_name)["qbridge_queue_ready"] == 0
    private_redis.stop()
    wait_for(lambda: read(page)[0] == 503, 30, "the exporter misses the broker")
    assert gauges(address, unique_name) == {"qbridge_exporter_up": 0}
    private_redis.start()
    wait_for(lambda: read(page)[0] == 200, 30, "the exporter goes on")
    exporter.terminate()
    assert exporter.wait(30) == 0


def test_a_port_that_is_taken_is_one_line(redis_url: str, start_qbridge: StartQBridge, qbridge: QBridge) -> None:
    """It ends with exit code 2, and says which port, and what to do."""
    address = address_of(start_qbridge("exporter", "q", "--url", redis_url, "--port", "0"))
    port = address.rpartition(":")[2]
    done = qbridge("exporter", "q", "--url", redis_url, "--port", port, code=2)
    assert f"at 127.0.0.1:{port}" in done.stderr
    assert "choose another port" in done.stderr
    assert "Traceback" not in done.stderr
