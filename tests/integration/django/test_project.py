"""A Django project with tasks of both kinds, and its processes."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from integration.django.conftest import Manage, command, environment
from support.wait import wait_for

SEND = """
from shop import tasks
tasks.mail.enqueue("ann", subject="at once")
tasks.mail_in_thread.enqueue("bob")
tasks.together.enqueue("cid")
tasks.in_child.enqueue("good")
tasks.in_child.enqueue("bad")
tasks.draw.send("cat.png")
tasks.count.send("eggs")
"""
WRITTEN = [
    "child bad", "child good", "count eggs", "draw cat.png", "failed LookupError", "mail ann at", "mail bob in",
    "together cid",
]  # fmt: skip


def test_the_tests_of_the_project_pass(manage: Manage) -> None:
    """Those in project/shop/tests.py, each with a docstring that says what it shows."""
    assert "OK" in manage("test").stderr


def test_check_tells_of_mistakes_in_the_settings(manage: Manage) -> None:
    """Of each backend, of the project's broker, and of apps and queues that do not go together."""
    told = manage("check", "--settings=mistakes", code=1).stderr
    for text in (
        "TASKS['no url']: (qbridge.E002) which broker? Set QBRIDGE_URL in the settings",
        "TASKS['no scheme']: (qbridge.E002) no backend serves nothing://; known schemes: amqp://",
        "TASKS['no option']: (qbridge.E002) OPTIONS has nothing called 'max_retrys'; there are url, max_retries,",
        "TASKS['no value']: (qbridge.E002) task_timeout must be a positive number",
        "TASKS['no queue']: (qbridge.E002) QUEUES is empty",
        "(qbridge.E001) which broker? Set QBRIDGE_URL in the settings",
        "(qbridge.W001) the queue 'emials' has settings, and no task; there are emails",
        "(qbridge.E005) there are 2 apps",
    ):
        assert text in told


def test_a_worker_refuses_a_broker_in_memory(manage: Manage) -> None:
    """It would run for ever, and see nothing of what others send."""
    assert "memory:// lives in one process" in manage("qbridge", "worker", code=2).stderr


@pytest.fixture
def variables(shared_url: str, unique_name: str, tmp_path: Path) -> dict[str, str]:
    """Where the broker and the database of the project are, and how its queues are called."""
    with closing(sqlite3.connect(tmp_path / "database")) as connection:  # in a tenth of the time that `migrate` takes
        connection.execute("CREATE TABLE shop_note (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT)")
    return {"URL": shared_url, "PREFIX": f"{unique_name}-", "DATABASE": str(tmp_path / "database")}


@pytest.fixture
def worker(folder: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A worker for all queues, with two processes; it is killed after the test."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command("qbridge", "worker", "--processes", "2"), cwd=folder, env=environment(variables), stderr=log
        )
    yield process
    process.kill()
    process.wait()


def test_a_worker_runs_the_tasks_of_a_project_until_sigterm(
    manage: Manage, worker: subprocess.Popen[bytes], folder: Path, variables: dict[str, str]
) -> None:
    """Of Django and of an App, in threads, on a loop and in child processes, each of which sets Django up."""
    manage("shell", "-c", SEND, **variables)
    wait_for(lambda: worker.poll() is not None or written(variables["DATABASE"]) == WRITTEN, 60)
    assert worker.poll() is None, (folder / "log").read_text()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    assert written(variables["DATABASE"]) == WRITTEN


def written(database: str) -> list[str]:
    """What tasks have noted: the first words of each."""
    with closing(sqlite3.connect(database)) as connection:
        texts = [text for (text,) in connection.execute("SELECT text FROM shop_note")]
    return sorted(" ".join(text.split()[: 3 if text.startswith("mail") else 2]) for text in texts)


@pytest.mark.parametrize("shared_url", ["redis"], indirect=True)
def test_other_commands_look_at_the_broker_of_the_settings(
    manage: Manage, variables: dict[str, str], unique_name: str
) -> None:
    """And a worker can be told to work on some queues, until they are empty."""
    manage("shell", "-c", SEND, **variables)
    native = f"{unique_name}-native"
    assert f"{native}      1" in manage("qbridge", "stats", native, **variables).stdout
    done = manage("qbridge", "worker", "-Q", native, "--until-idle", "--settings", "settings", **variables)
    assert done.stdout == f"{native}: 1 succeeded\n"
