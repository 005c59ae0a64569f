"""The tracebacks of dead letters: they begin with the handler, whatever it has called."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from qbridge_core import ConfigurationError, QueueClient, TaskManager
from qbridge_memory import MemoryClient
from support.handlers import raise_the_payload_later

release = threading.Event()


class Hanging(MemoryClient):
    """A client that does not come back from ``publish`` when it is told so."""

    hangs = False

    def publish(self, *args: Any, **kwargs: Any) -> None:
        """Publish, or wait."""
        if self.hangs:
            release.wait(20)
        super().publish(*args, **kwargs)


@contextmanager
def hanging() -> Iterator[Hanging]:
    """A connected client whose next message is published in vain."""
    release.clear()
    with Hanging() as client:
        client.declare("q", "d")
        client.send("q", 1)
        client.hangs = True
        try:
            yield client
        finally:
            release.set()


def send_on(client: QueueClient, payload: object) -> None:
    """A handler that sends."""
    client.send("q", payload)


def through_a_decorator(function: Callable[..., None]) -> Callable[..., None]:
    """Decorate."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> None:
        function(*args)

    return wrapper


@pytest.mark.parametrize("handler", [send_on, through_a_decorator(send_on)], ids=["partial", "decorated"])
def test_g13_a_timeout_in_qbridges_own_code_names_the_handler(handler: Callable[..., None]) -> None:
    """Where the handler hangs in ``send``, the traceback has the handler's line and those below it, no others."""
    with hanging() as client:
        called = functools.partial(handler, client)
        TaskManager(client, called, "q", "d", max_retries=0, task_timeout=0.1, max_workers=1).run_until_idle(10)
        text = client.dead_letters("d")[0].traceback
    assert "in send_on" in text
    assert text.index("in send_on") < text.index("in send\n") < text.index("in publish")
    assert "in _handle" not in text
    assert "in _run" not in text


def _send_nowhere(client: QueueClient, payload: object) -> None:
    client.send("", payload)


def _make_a_wrong_manager(client: QueueClient, payload: object) -> None:
    TaskManager(client, payload, "other", "d")  # type: ignore[arg-type]


@pytest.mark.parametrize("handler", [_send_nowhere, _make_a_wrong_manager])
def test_g13_an_exception_from_qbridges_own_code_names_the_handler(client: MemoryClient, handler: Any) -> None:
    """Also when it comes out of a module that handlers are called through."""
    client.send("q", 1)
    TaskManager(client, functools.partial(handler, client), "q", "d", max_retries=0).run_until_idle(10)
    (letter,) = client.dead_letters("d")
    assert letter.exception_type.endswith(ConfigurationError.__name__)
    assert f"in {handler.__name__}" in letter.traceback.splitlines()[1]


def test_g13_the_traceback_of_a_coroutine_in_a_child_process_begins_with_it(client: MemoryClient) -> None:
    """It shows neither asyncio nor the program of the child process."""
    client.send("q", "x")
    manager = TaskManager(client, raise_the_payload_later, "q", "d", max_retries=0, max_workers=1, executor="process")
    manager.run_until_idle(20)
    (letter,) = client.dead_letters("d")
    assert "in raise_the_payload_later" in letter.traceback.splitlines()[1]
