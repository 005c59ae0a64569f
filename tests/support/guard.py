"""Run a server for as long as the process that asked for it lives.

Started by :mod:`support.brokers` as its own process. It prints the server's process id, waits for the end of
the server, and kills it when its owner is gone, even when the owner died of SIGKILL. A helper (RabbitMQ's
port mapper) is started before the server and ends with it. If the guard itself is killed, the kernel kills
both.

It is a process, and not code run between fork and exec, because a test runner has threads; and because the
kernel ties a parent-death signal to the thread that started the child, which may end long before its process.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends; elsewhere only the guard's own watch is left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command: list[str], log: int) -> subprocess.Popen[bytes]:
    """Start a process that writes to the log and ends with this one."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        process_group=0,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - the guard has no threads
    )


def wait_for_port(port: int, timeout: float = 5.0) -> None:
    """Return when something listens on the port, or after the timeout."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.01)


def watch(server: subprocess.Popen[bytes], owner: int) -> int:
    """Wait for the end of the server, and cause it when the owner is gone."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return server.wait(timeout=0.25)
        if os.getppid() != owner:
            server.kill()


def main(task: dict[str, Any]) -> int:
    """Run the task's helper and server; return the server's exit status."""
    log = os.open(task["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    helper = spawn(task["helper"], log) if task["helper"] else None
    try:
        if helper:
            wait_for_port(task["helper_port"])
        server = spawn(task["server"], log)
        print(server.pid, flush=True)
        status = watch(server, task["owner"])
        with suppress(ProcessLookupError):  # what a server that was killed while it booted leaves behind
            os.killpg(server.pid, signal.SIGKILL)
        return abs(status)
    finally:
        if helper:
            helper.kill()
            helper.wait()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
