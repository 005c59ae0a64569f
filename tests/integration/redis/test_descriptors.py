"""A process without a free file descriptor settles what it holds as soon as it has one again."""

from __future__ import annotations

import subprocess
import sys
import textwrap

_PROGRAM = textwrap.dedent(
    r"""
    import os, resource, socket, sys, time
    from urllib.parse import urlsplit
    from qbridge_core import QBridgeError, QueueStats, connect
    from qbridge_redis import RedisClient
    url, queue = sys.argv[1:]
    client = connect(url)
    client.declare(queue)
    for number in range(3):
        client.send(queue, number)
    acked, failed, dead = client.receive(queue, 3, 5.0)
    killer = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
    context = client._nodes.nodes()[0].context
    name = context.consumer
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    taken = []

    def starve():
        # Cut all connections, and take the descriptors that this sets free.
        for line in ask("CLIENT LIST").splitlines():
            if name in line:
                ask("CLIENT KILL ID " + line.split()[0].removeprefix("id="))
        while link := context.pool.idle():  # the others it closes; a call would do it, and have a free descriptor
            link.close()
            context.pool.give(link)
        try:
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
        try:
            client.stats(queue)
        except QBridgeError as exc:
            return "Too many open files" in str(exc)

    def ask(command):
        killer.sendall(command.encode() + b"\r\n")
        head = b""
        while not head.endswith(b"\r\n"):
            head += killer.recv(1)
        size = int(head[1:]) + 2 if head[:1] == b"$" else 0
        text = b""
        while len(text) < size:
            text += killer.recv(size - len(text))
        return text.decode()

    while not starve():
        time.sleep(0.02)  # one of the client's threads was quicker
    client.ack(acked)
    calls = {
        "hand back": lambda: client.reject(failed),
        "dead letter": lambda: client.reject(dead, requeue=False),
        "publish": lambda: client.send(queue, 4),
        "stats": lambda: client.stats(queue),
        "connect": RedisClient(url.replace("redis:", "rediss:")).connect,
    }
    for name, call in calls.items():
        try:
            call()
            print(name, "worked")
        except QBridgeError as exc:
            print(name, "refused:", exc)
    for descriptor in taken:
        os.close(descriptor)
    client.reject(failed)
    client.reject(dead, requeue=False)
    deadline = time.monotonic() + 10
    while client.stats(queue) != QueueStats(1, 0, 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    print(client.count(queue), client.stats(queue).dead)
    client.disconnect()
    """
)


def test_g18_without_descriptors_calls_raise_our_errors_and_settlements_are_made_up(
    redis_url: str, unique_name: str
) -> None:
    """Nothing of the system's or the driver's errors crosses the boundary, and nothing stays held."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, redis_url, unique_name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all("Too many open files" in line for line in lines[:-1]), done.stdout
    assert len(lines) == 6
    assert lines[-1] == "QueueStats(ready=1, in_flight=0, delayed=0, paused=False) 1"
