"""Apps on real brokers: child processes, forks, worker programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qbridge_core import App, Outcome, Reason, connect
from support.shop import plain
from support.wait import wait_for

TESTS = str(Path(__file__).parents[1])


@pytest.mark.parametrize("url", ["memory", "redis", "rabbitmq"], indirect=True)
def test_an_app_works_on_each_broker(url: str, unique_name: str) -> None:
    """Sent in one go and one by one, with a retry, in threads and on an event loop."""
    app = App()
    ran: list[int] = []

    @app.task(name="count", queue=unique_name, max_retries=1)
    def count(number: int) -> None:
        ran.append(number)
        if ran.count(number) == 1 and number == 7:
            raise ValueError("once more")

    @app.task(name="wait", queue=f"{unique_name}-async")
    async def wait(number: int) -> None:
        ran.append(-number)

    with app.open(url):
        app.send_many([*(count.message(number) for number in range(10)), *(wait.message(n) for n in range(1, 10))])
        count.options(task_id="single").send(number=10)
        report = app.run_until_idle(60.0)
    assert sorted(ran) == sorted([*range(-9, 0), *range(11), 7])
    assert report.counts == {Outcome.SUCCEEDED: 20, Outcome.RETRIED: 1}


def test_tasks_run_in_child_processes(unique_name: str) -> None:
    """A child imports them by name, functions and coroutines, each with its own retries."""
    with plain.app.open(f"memory://{unique_name}") as client:
        for path in ("missing", "broken", "fine"):
            plain.draw.options(task_id=path).send(path)
        plain.upload.options(task_id="upload").send("x")
        plain.app.run_until_idle(60.0)
        letters = {letter.task_id: letter for letter in client.dead_letters("images.dead")}
    assert {name: letter.attempts for name, letter in letters.items()} == {"missing": 1, "broken": 2, "upload": 1}
    assert letters["broken"].exception_message.split()[0] == "2"
    assert str(os.getpid()) not in letters["broken"].exception_message
    assert {letter.reason for letter in letters.values()} == {Reason.FAILED}


FORK = """
import os, sys
from qbridge_core import App
app = App()
@app.task(name="note", queue=sys.argv[1])
def note(who: str) -> None:
    sys.stdout.write(f"ran {who}\\n")  # at once: another thread does so, too
note.send("parent before")
child = os.fork()
if child == 0:
    note.send("child")
    app.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
note.send("parent after")
print(sorted(app.run_until_idle().counts.items()))
app.close()
"""


@pytest.mark.parametrize("broker", ["redis_url", "amqp_url"])
def test_a_forked_child_connects_anew(request: pytest.FixtureRequest, broker: str, unique_name: str) -> None:
    """As below a server that loads its program and forks; the parent keeps its own connection."""
    environment = {**os.environ, "QBRIDGE_URL": str(request.getfixturevalue(broker))}
    result = subprocess.run(
        [sys.executable, "-c", FORK, unique_name],
        capture_output=True, text=True, check=False, timeout=90, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert sorted(lines[:-1]) == ["ran child", "ran parent after", "ran parent before"]
    assert lines[-1].endswith("3)]")


WORKER = """
import sys
from qbridge_core import App
app = App()
@app.task(name="note", queue=sys.argv[1])
def note(who: str) -> None:
    print("ran", who, flush=True)
app.run_worker()
"""


def test_run_worker_works_until_it_is_told_to_stop(redis_url: str, unique_name: str) -> None:
    """SIGTERM ends it with exit status 0."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, unique_name],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "QBRIDGE_URL": redis_url},
    )  # fmt: skip
    try:
        with connect(redis_url) as client:
            client.declare(unique_name, f"{unique_name}.dead")
            client.publish(unique_name, b'{"task": "note", "payload": {"who": "somebody"}}')
            wait_for(lambda: client.stats(unique_name) == type(client.stats(unique_name))(0, 0, 0), 60.0)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, output) == (0, "ran somebody\n")
