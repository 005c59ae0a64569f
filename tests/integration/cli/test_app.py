"""``qbridge worker`` with an app: all queues or some, in one process or several."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from integration.cli.conftest import QBridge, StartQBridge
from qbridge_core import connect
from support.wait import wait_for

SHOP = """
import os
from pathlib import Path
from qbridge_core import App, TaskContext

app = App()
prefix = os.environ["PREFIX"]
app.queue(f"{prefix}-images", executor="process", max_workers=1)
journal = Path(__file__).parent / "journal"

def note(text):
    with journal.open("a") as file:
        file.write(f"{text}\\n")

@app.task(queue=f"{prefix}-emails")
async def mail(to: str) -> None:
    note(f"mail {to}")

@app.task(queue=f"{prefix}-images", max_retries=0)
def draw(task: TaskContext, path: str) -> None:
    note(f"draw {path} {task.attempt}")
    if path == "bad":
        raise ValueError(path)
"""


@pytest.fixture
def shop(tmp_path: Path, unique_name: str) -> dict[str, str]:
    """The module, and the variables that it needs."""
    (tmp_path / "shop.py").write_text(SHOP)
    return {"PREFIX": unique_name}


def test_a_worker_works_on_the_queues_of_an_app(
    qbridge: QBridge, shop: dict[str, str], shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """All of them, or those that -Q names; the broker is that of --url or of the variable."""
    queues = [f"{unique_name}-emails", f"{unique_name}-images"]
    with connect(shared_url) as client:
        for queue in queues:
            client.declare(queue, f"{queue}.dead")
    url = {"QBRIDGE_URL": shared_url}
    qbridge("send", queues[0], '{"to": "ann"}', "--task", "shop.mail", **url)
    for path in ("good", "bad"):
        qbridge("send", queues[1], f'{{"path": "{path}"}}', "--task", "shop.draw", **url)
    done = qbridge("worker", "shop:app", "-Q", queues[0], "--until-idle", "--url", shared_url, **shop)
    assert done.stdout == f"{queues[0]}: 1 succeeded\n"
    done = qbridge("worker", "shop:app", "--until-idle", **url, **shop)
    assert done.stdout == f"{queues[0]}: nothing happened\n{queues[1]}: 1 succeeded, 1 dead-lettered (failed)\n"
    assert sorted((tmp_path / "journal").read_text().splitlines()) == ["draw bad 1", "draw good 1", "mail ann"]


def test_queues_may_be_named_by_several_options(qbridge: QBridge, shop: dict[str, str], unique_name: str) -> None:
    """No queue of an earlier -Q is left without a worker; an empty one, as of an unset variable, is not all of them."""
    emails, images = f"{unique_name}-emails", f"{unique_name}-images"
    worker = ("worker", "shop:app", "--until-idle", "--url", "memory://")
    done = qbridge(*worker, "-Q", emails, "-Q", images, **shop)
    assert done.stdout == f"{emails}: nothing happened\n{images}: nothing happened\n"
    named = {"QBRIDGE_WORKER_QUEUES": f"{emails}, {images}"}
    assert qbridge(*worker, **shop, **named).stdout == done.stdout
    for empty in ("", " , "):
        assert "this names no queue" in qbridge(*worker, "-Q", images, "-Q", empty, code=None, **shop).stderr


def test_an_app_runs_in_several_processes(
    start_qbridge: StartQBridge, shop: dict[str, str], shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """Below a supervisor; one signal ends all."""
    queue = f"{unique_name}-emails"
    worker = start_qbridge("worker", "shop:app", "--processes", "2", QBRIDGE_URL=shared_url, **shop)
    with connect(shared_url) as client:
        client.declare(queue, f"{queue}.dead")
        client.publish(queue, b'{"task": "shop.mail", "payload": {"to": "ann"}}')
        wait_for((tmp_path / "journal").exists, 60.0)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


def test_without_a_broker_a_worker_says_how_to_name_one(qbridge: QBridge, shop: dict[str, str]) -> None:
    """In a line."""
    done = qbridge("worker", "shop:app", code=None, **shop)
    assert done.returncode == 2
    assert "which broker?" in done.stderr


def test_a_letter_of_an_app_is_run_by_its_function(
    qbridge: QBridge, shop: dict[str, str], shared_url: str, unique_name: str
) -> None:
    """Here and now, with its arguments; it stays where it is, and the doctor knows the queues and tasks."""
    queue = f"{unique_name}-images"
    settings = {"QBRIDGE_URL": shared_url, **shop}
    with connect(shared_url) as client:
        client.declare(queue, f"{queue}.dead")
        qbridge("send", queue, '{"path": "bad"}', "--task", "shop.draw", **settings)
        qbridge("send", queue, '{"road": "bad"}', "--task", "shop.draw", **settings)
        qbridge("worker", "shop:app", "-Q", queue, "--until-idle", **settings)
        ids = {letter.reason.value: letter.id for letter in client.dead_letters(f"{queue}.dead")}
    run = ("dlq", "debug", queue, "--target", "shop:app", "--yes")
    assert "ValueError: bad" in qbridge(*run, ids["failed"], code=1, **settings).stderr
    assert "payload.path: it is missing" in qbridge(*run, ids["malformed"], code=1, **settings).stderr
    told = qbridge("doctor", "--target", "shop:app", code=None, **settings).stdout
    assert "a child process can import the handlers shop.mail, shop.draw" in told
    assert queue in told


WHOLE = """
from qbridge_core import App, JSONFormat, TaskManager, connect

app = App()
app.queue("QUEUE", formats=[JSONFormat("double")])


@app.task(name="double", queue="QUEUE", max_retries=0)
def double(number: int) -> int:
    print("double", number)
    return number * 2


def build():
    return TaskManager(connect("URL"), print, "QUEUE", "QUEUE.dead", formats=[JSONFormat])
"""


def test_a_letter_of_another_format_is_run_as_its_queue_reads_it(
    qbridge: QBridge, shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """By an app and by a manager, whose formats are known; a handler alone does not know it."""
    (tmp_path / "jobs.py").write_text(WHOLE.replace("QUEUE", unique_name).replace("URL", shared_url))
    dead = f"{unique_name}.dead"
    with connect(shared_url) as client:
        client.declare(unique_name, dead)
        for body in b'{"number": 7}', b'{"number": "x"}':
            client.publish(unique_name, body)
        for delivery in client.receive(unique_name, 2, 10.0):
            client.reject(delivery, requeue=False)
        client.flush()
        wait_for(lambda: len(client.dead_letters(dead)) == 2, 30.0, "both are letters")
        ids = {letter.body: letter.id for letter in client.dead_letters(dead)}
    run = ("dlq", "debug", unique_name, "--yes", "--target")
    good, bad = ids[b'{"number": 7}'], ids[b'{"number": "x"}']
    done = qbridge(*run, "jobs:app", good, QBRIDGE_URL=shared_url)
    assert done.stdout.splitlines() == ["double 7", "the handler returned 14; the letter stays where it is"]
    assert "{'number': 7}" in qbridge(*run, "jobs:build", good, QBRIDGE_URL=shared_url).stdout
    assert (
        "payload.number: expected a whole number"
        in qbridge(*run, "jobs:app", bad, code=1, QBRIDGE_URL=shared_url).stderr
    )
    refused = qbridge(*run, "jobs:double.function", good, code=1, QBRIDGE_URL=shared_url)
    assert 'no handler would see the letter: the JSON object has no "payload"' in refused.stderr
