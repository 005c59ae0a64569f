"""What the tests of the shop share."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import redis

from support.customers import Customer, MailServer

EXAMPLES = str(Path(__file__).parents[2] / "examples")


@pytest.fixture(scope="session")
def shop() -> Iterator[ModuleType]:
    """The module with the tasks, as child processes import it, too."""
    sys.path.insert(0, EXAMPLES)
    yield importlib.import_module("shop.tasks")
    sys.path.remove(EXAMPLES)


@pytest.fixture
def mail_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """Takes the shop's mails."""
    server = MailServer()
    monkeypatch.setenv("SMTP_SERVER", server.address)
    yield server
    server.close()


@pytest.fixture
def customer() -> Iterator[Callable[..., Customer]]:
    """Make customers: ``customer(503, 200)`` has one that is busy once."""
    made: list[Customer] = []

    def make(*codes: int) -> Customer:
        made.append(Customer(*codes))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Four times four points."""
    path = tmp_path / "cat.ppm"
    path.write_bytes(b"P6 4 4 255\n" + bytes(range(48)))
    return path


@pytest.fixture
def program(tmp_path: Path, mail_server: MailServer) -> Iterator[Callable[..., None]]:
    """Start a program that finds the shop, ``program("-m", "celery", …, VARIABLE=…)``; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []
    log = tmp_path / "program.log"

    def start(*command: str, **variables: str) -> None:
        environment = os.environ | {"PYTHONPATH": EXAMPLES} | variables
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        started.append(process)

    yield start
    for process in started:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait()
    print(log.read_text())  # noqa: T201 - pytest shows it when the test has failed


@pytest.fixture
def private_database(redis_url: str) -> Iterator[Callable[[int], str]]:
    """The URL of one of Redis' databases, which is emptied; tests of one run share the others."""
    made: list[str] = []

    def empty(url: str) -> None:
        with redis.Redis.from_url(url) as server:
            server.flushdb()

    def make(number: int) -> str:
        made.append(f"{redis_url.rpartition('/')[0]}/{number}")
        empty(made[-1])
        return made[-1]

    yield make
    for url in made:
        empty(url)
