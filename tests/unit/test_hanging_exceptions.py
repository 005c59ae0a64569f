"""Exceptions of handlers whose own code hangs while they are read."""

from __future__ import annotations

import threading

import pytest

from qbridge_core import Reason, TaskManager
from qbridge_memory import MemoryClient

release = threading.Event()


class HangingText(Exception):
    """Its text never comes."""

    def __str__(self) -> str:
        release.wait(20)
        return "too late"


class _HangingKind(type):
    def __subclasscheck__(cls, other: type) -> bool:
        release.wait(20)
        return False


class Unaskable(Exception, metaclass=_HangingKind):
    """Whoever asks whether something is one of these waits."""


@pytest.mark.parametrize(
    ("raised", "options"),
    [(HangingText, {}), (ValueError, {"dead_letter_on": [Unaskable]})],
    ids=["text", "subclass check"],
)
def test_g10_an_exception_that_cannot_be_read_holds_no_slot(
    client: MemoryClient, raised: type[Exception], options: dict[str, object]
) -> None:
    """The failure is counted without its text, the slot is replaced, and what the thread does later changes nothing."""
    release.clear()

    def handler(payload: str) -> None:
        if payload == "bad":
            raise raised

    client.send_many("q", ["bad", "good"])
    manager = TaskManager(client, handler, "q", "d", max_workers=1, max_retries=0, task_timeout=0.1, **options)  # type: ignore[arg-type]
    try:
        report = manager.run_until_idle(10)
        (letter,) = client.dead_letters("d")
    finally:
        release.set()
    assert (report.succeeded, report.dead_lettered) == (1, 1)
    assert (letter.reason, letter.exception_type) == (Reason.FAILED, raised.__name__)
    assert letter.exception_message == "(could not be read in time)"
    assert client.stats("d").ready == 1
