"""The program of the usage document, run as it is, but for the address and the names of the queues."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qbridge_core import QueueStats, Reason, connect
from support.wait import wait_for

EXAMPLE = Path(__file__).parents[2] / "examples" / "usage_example.py"
Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, unique_name: str) -> Iterator[Start]:
    """Start the example on a broker, with queue names of this test; it is killed after the test."""
    processes: list[subprocess.Popen[str]] = []

    def start(url: str) -> subprocess.Popen[str]:
        code = EXAMPLE.read_text(encoding="utf-8")
        for old, new in (
            ("amqp://guest:guest@localhost:5672/", url),
            ("tasks_to_process", unique_name),
            ("failed_tasks", f"{unique_name}-dead"),
        ):
            assert code.count(old) == 1
            code = code.replace(old, new)
        program = tmp_path / "usage_example.py"
        program.write_text(code, encoding="utf-8")
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen([sys.executable, program], stdout=log, stderr=log, text=True, env={**os.environ})
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_the_usage_example_does_what_its_document_says(
    start: Start, amqp_url: str, tmp_path: Path, unique_name: str
) -> None:
    """A good task is done, a bad one is dead-lettered after 4 runs, one that is no task at once; Ctrl-C ends it."""
    dead = f"{unique_name}-dead"
    with connect(amqp_url) as client:
        client.declare(unique_name, dead)
        client.send(unique_name, {"data": "spam"})
        client.send(unique_name, {"no data": 1})
        client.publish(unique_name, b"not JSON")
        process = start(amqp_url)
        wait_for(lambda: client.stats(dead).ready == 2, 30, "two dead letters")
        log = tmp_path / "log"
        wait_for(lambda: "Processed data: spam" in log.read_text(), 30, "the good task is done")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, log.read_text()
        letters = {letter.reason: letter.attempts for letter in client.dead_letters(dead)}
        assert letters == {Reason.FAILED: 4, Reason.MALFORMED: 0}
        assert client.stats(unique_name) == QueueStats(0, 0, 0)
        assert "RabbitMQ client disconnected." in log.read_text()


def test_the_usage_example_says_when_there_is_no_broker(start: Start, tmp_path: Path) -> None:
    """Without a broker it logs the failure and exits with 1, as it is written."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        process = start(f"amqp://guest:guest@127.0.0.1:{unused.getsockname()[1]}/")
        assert process.wait(60) == 1
    assert "Failed to connect RabbitMQ client" in (tmp_path / "log").read_text()
