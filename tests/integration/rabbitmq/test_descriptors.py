"""A process that has no descriptor left: errors of QBridge's own, and everything goes on when there are some again."""

from __future__ import annotations

import subprocess
import sys

import pytest

HOLD = """
import contextlib, os, resource, sys, threading, time
from qbridge_core import BrokerUnavailableError, QBridgeError, TaskManager, connect
from qbridge_rabbitmq import RabbitMQClient

url, queue = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
held = []

def exhaust(free=0):
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open("/dev/null", os.O_RDONLY))
    for _ in range(free):
        os.close(held.pop())

def release():
    while held:
        os.close(held.pop())
"""
CONNECT = """
client = RabbitMQClient(url, connect_timeout=0.5)
for free in range(7):
    exhaust(free)
    try:
        client.connect()
    except QBridgeError as exc:
        assert isinstance(exc, BrokerUnavailableError), exc
    client.disconnect()
    release()
client.connect()
client.declare(queue)
print(client.stats(queue).ready)
client.disconnect()
"""
SETTLE = """
client = connect(url, reconnect_delay_max=0.3)
client.declare(queue, queue + ".dead")
client.send_many(queue, range(6))
started, go_on = threading.Semaphore(0), threading.Event()

def handler(payload):
    started.release()
    go_on.wait(20)
    if payload % 2:
        raise ValueError(payload)

with TaskManager(client, handler, queue, queue + ".dead", max_retries=0, max_workers=6) as manager:
    for _ in range(6):
        started.acquire(timeout=20)
    broker = client._broker
    for link in (broker.connections.consuming, broker.connections.publishing):
        broker.io.post(link.abandon)  # both connections are lost
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        exhaust()
        go_on.set()
        for call in (lambda: client.stats(queue), lambda: client.publish(queue + ".none", b"x", timeout=0.1)):
            try:
                call()
            except QBridgeError:
                pass
            time.sleep(0.01)
    release()
    end = time.monotonic() + 30
    while (manager.report().succeeded, manager.report().dead_lettered) != (3, 3) and time.monotonic() < end:
        time.sleep(0.05)
    print(manager.report().succeeded, manager.report().dead_lettered)
client.disconnect()
"""


@pytest.mark.parametrize(("program", "printed"), [(CONNECT, "0"), (SETTLE, "3 3")], ids=["connecting", "settling"])
def test_g18_g19_a_lack_of_descriptors_passes(amqp_url: str, unique_name: str, program: str, printed: str) -> None:
    """No error of the system's gets out, nothing that was running is held for ever, and nothing has to be restarted."""
    command = [sys.executable, "-W", "error", "-c", HOLD + program, amqp_url, unique_name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.stdout.strip() == printed, done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
