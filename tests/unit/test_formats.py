"""Messages of other formats than the envelope: what reads them, what becomes of those that are none."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    EnvelopeFormat,
    Format,
    JSONFormat,
    Outcome,
    RawFormat,
    Reason,
    TaskManager,
    hookimpl,
)
from qbridge_core.work.readahead import ReadAhead
from qbridge_memory import MemoryClient
from support.formats import ListFormat, note_payload, note_payload_later, note_process, publish
from support.handlers import notes
from support.suspects import CountingClient, suspected_once
from support.wait import wait_for

KINDS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (note_payload, {}),
    (note_payload_later, {}),
    (note_payload, {"executor": "process", "max_workers": 1}),
]
"""Threads, an event loop, a child process."""


@pytest.fixture
def journal(tmp_path: Path) -> str:
    """The file that the handlers of a test write to."""
    return str(tmp_path / "journal")


def manager(client: MemoryClient, *formats: Format, handler: Any = note_payload, **arguments: Any) -> TaskManager:
    """A manager of the queue ``q`` with these formats."""
    return TaskManager(client, handler, "q", "d", formats=formats, **arguments)


def letter(client: MemoryClient) -> tuple[Reason, int, str, str]:
    """What the only dead letter says: reason, attempts, task id, text."""
    (found,) = client.dead_letters("d")
    return found.reason, found.attempts, found.task_id, found.exception_message


@pytest.mark.parametrize(("handler", "arguments"), KINDS)
def test_a_queue_may_have_messages_of_several_formats(
    client: MemoryClient, journal: str, handler: Any, arguments: dict[str, Any]
) -> None:
    """Each is read by the format that knows it, wherever handlers run, and what takes anything takes the rest."""
    client.send("q", {"file": journal})
    client.publish("q", json.dumps({"file": journal, "whole": True}).encode())
    client.publish("q", journal.encode())
    publish(client, "q", journal, kwargs={"n": 1})
    formats = RawFormat(), JSONFormat(), EnvelopeFormat(), ListFormat()
    report = manager(client, *formats, handler=handler, **arguments).run_until_idle(60.0)
    assert report.counts == {Outcome.SUCCEEDED: 4}
    assert sorted(notes(journal)) == sorted(
        [
            json.dumps({"file": journal}),
            json.dumps({"file": journal, "whole": True}),
            repr(journal.encode()),
            json.dumps({"args": [journal], "kwargs": {"n": 1}}),
        ]
    )


def test_quick_tasks_of_another_format_go_to_a_child_together(
    client: MemoryClient, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child reads each of them by its format, too."""
    monkeypatch.setattr(ReadAhead, "more", lambda self, done, now: 30)
    for number in range(40):
        publish(client, "q", journal, kwargs={"n": number})
    publish(client, "q", journal, kwargs={"chain": 1})
    arguments: dict[str, Any] = {"executor": "process", "max_workers": 1}
    report = manager(client, ListFormat(), **arguments).run_until_idle(60.0)
    assert report.counts == {Outcome.SUCCEEDED: 40, Outcome.UNSUPPORTED: 1}
    assert len(set(notes(journal))) == 40


@pytest.mark.timeout(360)
def test_g6_a_suspect_of_another_format_runs_in_a_child_process(journal: str) -> None:
    """The child that runs it apart reads it by its format."""
    with CountingClient() as client:
        client.declare("q", "d")
        client.deaths["q"] = suspected_once(b"suspect")
        publish(client, "q", journal, "suspect")
        running = manager(client, ListFormat(), handler=note_process, max_workers=2)
        assert running.run_until_idle(100.0).counts == {Outcome.SUCCEEDED: 1}
    (process,) = notes(journal)
    assert process != str(os.getpid())


def test_g13_what_no_format_accepts_is_a_letter_that_names_them(client: MemoryClient) -> None:
    """It never runs."""
    client.publish("q", b"hello")
    report = manager(client, ListFormat(), JSONFormat(), EnvelopeFormat()).run_until_idle()
    text = "it is of none of the formats of this queue: list, envelope, JSON"
    assert letter(client) == (Reason.MALFORMED, 0, "", text)
    assert report.counts == {Outcome.MALFORMED: 1}


@pytest.mark.parametrize(("handler", "arguments"), KINDS[:2])
def test_g13_what_asks_for_too_much_is_a_letter_and_never_half_run(
    client: MemoryClient, handler: Any, arguments: dict[str, Any]
) -> None:
    """Its reason is ``unsupported``, and the letter has the words of the format."""
    publish(client, "q", kwargs={"chain": 1})
    report = manager(client, ListFormat(), handler=handler, **arguments).run_until_idle()
    assert letter(client) == (Reason.UNSUPPORTED, 0, "chained", "it has a chain, which is not run here")
    assert report.counts == {Outcome.UNSUPPORTED: 1}


@pytest.mark.parametrize(("handler", "arguments"), KINDS)
def test_what_is_not_due_waits_at_the_broker(
    client: MemoryClient, journal: str, handler: Any, arguments: dict[str, Any]
) -> None:
    """It goes back uncounted, others do not wait for it, and it runs when its time has come."""
    publish(client, "q", journal, "first")
    with manager(client, ListFormat(), handler=handler, **arguments) as running:
        wait_for(lambda: len(notes(journal)) == 1, 60.0, "workers are ready")
        due = time.time() + 1.5
        publish(client, "q", journal, "late", due_at=due)
        publish(client, "q", journal, "soon")
        wait_for(lambda: len(notes(journal)) == 3, 60.0, "all have run")
        assert time.time() >= due
        report = running.run_until_idle()
    assert "soon" in notes(journal)[1]
    assert report.succeeded == 3
    assert report.dead_lettered == report.retried == 0


def test_what_is_handed_back_is_told_by_its_id(client: MemoryClient) -> None:
    """Hooks hear the id that the format finds."""
    told: list[str] = []

    class Plugin:
        @hookimpl
        def qbridge_task_handed_back(self, queue: str, task_id: str) -> None:
            told.append(task_id)

    began, release = threading.Event(), threading.Event()

    def handler(_: object) -> None:
        began.set()
        release.wait(30)

    publish(client, "q", id="call-7")
    with manager(client, ListFormat(), handler=handler, max_workers=1, grace_period=0.1, plugins=[Plugin()]):
        assert began.wait(10)
    release.set()
    assert told == ["call-7"]


def test_a_format_of_json_refuses_what_is_none(client: MemoryClient) -> None:
    """What begins as JSON and is none is malformed, and what is told beside it is checked."""
    client.publish("q", b"{,}")
    client.publish("q", b"1", headers={"qbridge-expires-at-ms": "soon"})
    client.publish("q", b"[" + b" " * 2_000 + b"]")
    manager(client, JSONFormat(), max_message_bytes=1_000).run_until_idle()
    found = sorted(each.exception_message for each in client.dead_letters("d"))
    assert [text[:50] for text in found] == [
        "the body has 2002 bytes; the limit is 1000",
        "the body is not JSON: Expecting property name encl",
        "the header qbridge-expires-at-ms is 'soon', not a ",
    ]


def test_formats_may_be_given_as_classes(client: MemoryClient, journal: str) -> None:
    """One that needs no arguments is made."""
    client.publish("q", json.dumps({"file": journal}).encode())
    TaskManager(client, note_payload, "q", "d", formats=[EnvelopeFormat, JSONFormat]).run_until_idle()
    assert len(notes(journal)) == 1


@pytest.mark.parametrize(
    ("formats", "text"),
    [
        (JSONFormat(), r"formats must be a list, as in"),
        (JSONFormat, r"formats must be a list, as in"),
        ("json", r"formats must be a list, as in"),
        (5, r"formats must be a list, as in"),
        ([], "one at least"),
        (["json"], r"formats must hold formats, such as EnvelopeFormat\(\), not 'json'"),
        ([int], r"must hold formats"),
    ],
)
def test_wrong_formats_are_refused(client: MemoryClient, formats: Any, text: str) -> None:
    """The error says what is wanted."""
    with pytest.raises(ConfigurationError, match=text):
        TaskManager(client, print, "q", "d", formats=formats)


def test_a_format_that_no_child_can_have_is_refused(client: MemoryClient) -> None:
    """With child processes it must be possible to pickle it."""

    class Local(ListFormat):
        pass

    with pytest.raises(ConfigurationError, match="each format must be able to be pickled"):
        manager(client, Local(), executor="process")
