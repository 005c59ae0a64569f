"""``redact``: what may be shown of a handler's exception, in logs and in dead letters."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from qbridge_core import DeadLetter, Reject, Retry, Snooze, TaskManager, hookimpl
from qbridge_core.message import MAX_EXCEPTION_MESSAGE_CHARS, MAX_TRACEBACK_CHARS
from qbridge_memory import MemoryClient
from support.handlers import raise_the_payload

CARD = "4111111111111111"


def hide(text: str) -> str:
    """Hide what looks like the number of a card."""
    return re.sub(r"\b\d{16}\b", "****", text)


def fail(payload: str) -> None:
    """Fail with the payload in the text, as careless handlers do."""
    raise ValueError(f"bad card {payload}")


async def fail_later(payload: str) -> None:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    fail(payload)


def run(client: MemoryClient, handler: Any, payload: object, **arguments: Any) -> list[DeadLetter]:
    """Run one task until it is dead-lettered or done."""
    client.send("q", payload)
    TaskManager(client, handler, "q", "d", **{"max_workers": 1, "max_retries": 1, **arguments}).run_until_idle(60.0)
    return client.dead_letters("d")


@pytest.mark.parametrize("executor", ["thread", "coroutine", "process"])
def test_g17_what_redact_hides_is_in_no_log_and_no_dead_letter(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, executor: str
) -> None:
    """Exception text and traceback are redacted for retries and dead letters, whatever runs the handler."""
    caplog.set_level(logging.DEBUG)
    handler = {"thread": fail, "coroutine": fail_later, "process": raise_the_payload}[executor]
    arguments = {"executor": "process"} if executor == "process" else {}
    (letter,) = run(client, handler, CARD, redact=hide, **arguments)
    assert "****" in letter.exception_message
    assert "****" in letter.traceback
    assert "****" in caplog.text
    assert CARD not in caplog.text + letter.exception_message + letter.traceback
    assert CARD.encode() in letter.body


def test_g17_payloads_are_in_no_log(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Even at DEBUG, neither a success nor a failure nor a malformed message shows what the producer sent."""
    caplog.set_level(logging.DEBUG)
    failures = iter([RuntimeError("away")])

    def handler(payload: object) -> None:
        for error in failures:
            raise error

    client.publish("q", b'{"payload": "' + CARD.encode() + b'"')
    assert len(run(client, handler, {"card": CARD})) == 1
    assert len(caplog.records) > 3
    assert CARD not in caplog.text


def test_g17_reasons_of_a_handler_are_redacted_too(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """``Retry``, ``Reject``, ``Snooze`` and the causes in a traceback are texts of a handler as well."""
    caplog.set_level(logging.DEBUG)
    ends = iter([Snooze(0, f"wait for {CARD}"), Retry(f"again {CARD}"), Reject(f"no {CARD}")])

    def handler(payload: object) -> None:
        try:
            raise KeyError(CARD)
        except KeyError as exc:
            raise next(ends) from exc

    (letter,) = run(client, handler, 1, redact=hide)
    assert letter.exception_message == "no ****"
    assert "KeyError: '****'" in letter.traceback
    assert "snoozed for 0 s: wait for ****" in caplog.text
    assert CARD not in caplog.text + letter.traceback


def raising(text: str) -> str:
    """A redact function that breaks, and quotes what it should hide."""
    raise ValueError(text)


def exiting(text: str) -> str:
    """A redact function that wants to end the program."""
    raise SystemExit(text)


@pytest.mark.parametrize("redact", [raising, exiting, lambda text: None, lambda text: text.encode()])
def test_g17_a_redact_that_fails_shows_nothing(
    client: MemoryClient, caplog: pytest.LogCaptureFixture, redact: Any
) -> None:
    """The text is left out, the log says why without it, and the task is settled as ever."""
    caplog.set_level(logging.DEBUG)
    (letter,) = run(client, fail, CARD, redact=redact)
    assert (letter.exception_type, letter.attempts) == ("ValueError", 2)
    assert "could not be redacted" in letter.exception_message
    assert "could not be redacted" in letter.traceback
    assert "redact r" in caplog.text
    assert CARD not in caplog.text


@pytest.mark.parametrize("executor", ["thread", "process"])
@pytest.mark.parametrize("shift", [-15, -8, -1, 0])
def test_g17_a_secret_at_the_cut_is_hidden(client: MemoryClient, executor: str, shift: int) -> None:
    """Texts are cut after they were redacted: half a number would not look like one."""
    payload = "x" * (MAX_EXCEPTION_MESSAGE_CHARS - len("bad card ") - 1 + shift) + " " + CARD
    (letter,) = run(client, raise_the_payload, payload, executor=executor, redact=hide, max_retries=0)
    assert "4111" not in letter.exception_message
    assert len(letter.exception_message) <= MAX_EXCEPTION_MESSAGE_CHARS
    assert len(letter.traceback) <= MAX_TRACEBACK_CHARS


def test_a_hook_sees_the_exception_itself(client: MemoryClient) -> None:
    """Plugins are the user's own code: what they report is up to them."""
    seen: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_task_failed(self, exception: BaseException) -> None:
            seen.append(str(exception))

    run(client, fail, CARD, redact=hide, max_retries=0, plugins=[Plugin()])
    assert seen == [f"bad card {CARD}"]
