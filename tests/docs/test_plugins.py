"""The plugin for Sentry of docs/plugins.md, where what a run ends with is not what settles it."""

from __future__ import annotations

import runpy
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sentry_sdk

from docs.test_examples import write_named
from qbridge_core import Snooze, TaskManager
from qbridge_memory import MemoryClient
from support.pages import DOCS
from support.wait import wait_for


@pytest.fixture
def reports() -> Iterator[list[tuple[Any, ...]]]:
    """What Sentry would have got: the text or the type of the error, and the attempt."""
    seen: list[tuple[Any, ...]] = []

    def keep(event: Any, hint: Any) -> None:
        del hint
        error = event["exception"]["values"][-1]["type"] if "exception" in event else event["message"]
        seen.append((error, event["tags"]["attempt"]))

    with sentry_sdk.isolation_scope():
        sentry_sdk.init("https://key@sentry.example/1", before_send=keep, default_integrations=False)
        yield seen
        sentry_sdk.init()


def test_a_report_is_of_the_last_attempt_and_nothing_is_kept(
    tmp_path: Path, release: threading.Event, reports: list[tuple[Any, ...]]
) -> None:
    """Of a late run, which ends after its attempt was settled, and of one that is put off, no exception is kept."""
    write_named(DOCS / "plugins.md", tmp_path, "")
    plugin = runpy.run_path(str(tmp_path / "reporting.py"))["Reporting"]()
    snoozed = threading.Event()

    def handler(payload: object) -> None:
        if payload == "late":
            release.wait(20)
            raise ConnectionError
        if not snoozed.is_set():
            snoozed.set()
            raise Snooze(0.01)
        raise LookupError

    with MemoryClient() as client:
        client.declare("q", "d")
        client.send_many("q", ["late", "fails"])
        TaskManager(
            client, handler, "q", "d", max_retries=1, task_timeout=0.3, interrupt=False, plugins=[plugin]
        ).run_until_idle(30.0)
    release.set()
    assert sorted(reports) == [("LookupError", 2), ("timed out: TimeoutError", 2)]
    wait_for(lambda: not plugin._failed)
