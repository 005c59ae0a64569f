"""What the exporter shows of the last look, however long ago that was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qbridge_core.cli.commands.exporter import _complain as complain
from qbridge_core.cli.commands.exporter import _tell_doubts as tell_doubts
from qbridge_core.cli.watching.exporting import Exported
from qbridge_core.cli.watching.overview import Overview, Row
from qbridge_core.errors import AuthenticationError, BrokerUnavailableError, QBridgeError
from qbridge_core.telemetry.catalogue import READY, UP
from qbridge_core.telemetry.pages import Pages
from qbridge_memory import MemoryClient


def row(queue: str = "q", ready: int = 2, in_flight: int | None = 3, *, paused: bool | None = False) -> Row:
    """A queue as the broker tells of it."""
    return Row(queue, None, ready, in_flight, 0, None, None, None, None, None, paused)


def shown(pages: Pages, path: str) -> tuple[int, Any]:
    """A page of JSON."""
    page = pages.visit(path)
    return page.status, json.loads(page.body)


@pytest.mark.parametrize(
    ("seen", "backlog"),
    [(row(), 5), (row(in_flight=None), 2), (row(paused=True), 0), (row(paused=None), 5), (row(ready=0), 3)],
)
def test_the_backlog_is_what_workers_have_to_do_now(seen: Row, backlog: int) -> None:
    """Ready, and in flight as far as that is known: a worker that is busy must not be stopped; nothing while paused."""
    pages = Pages()
    Exported(pages, 60.0).brought([seen])
    assert shown(pages, "/queues/q")[1]["backlog"] == backlog


def test_before_the_first_look_nothing_is_green() -> None:
    """A page is a 503 with the reason, and so is each one after a look that failed."""
    pages = Pages()
    exported = Exported(pages, 60.0)
    assert shown(pages, "/queues") == (503, {"error": "the broker has not answered yet"})
    exported.brought([row()])
    exported.failed("no route")
    assert shown(pages, "/queues/q") == (503, {"error": "no route"})
    assert exported.figures.read().gauges == {(UP, ()): 0}


def test_a_queue_that_is_named_is_no_page_that_is_missing() -> None:
    """Whoever scales by it must not take a broker that is not up yet for a slip in the address."""
    pages = Pages()
    Exported(pages, 60.0, ["q"])
    assert shown(pages, "/queues/q") == (503, {"error": "the broker has not answered yet"})


def test_who_may_not_list_queues_is_shown_what_is_in_them(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exporter wonders whether an empty queue is there; a broker that does not say so is no broker that is away."""

    def refuse() -> dict[str, str | None]:
        raise AuthenticationError("no permission for SCAN")

    monkeypatch.setattr(client, "queues", refuse)
    overview = Overview(client, ["q"])
    rows = overview.look()
    assert overview.absent(rows) == set()
    tell_doubts(overview, rows, ())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (BrokerUnavailableError("no route"), "the broker does not answer: no route\n"),
        (AuthenticationError("no permission"), "the queues cannot be looked at: no permission\n"),
    ],
)
def test_a_look_that_fails_is_told_from_a_broker_that_is_away(
    capsys: pytest.CaptureFixture[str], error: QBridgeError, said: str
) -> None:
    """A right that is missing is no outage."""
    complain(error)
    assert capsys.readouterr().err == said


def test_a_look_does_not_count_for_ever() -> None:
    """A broker that is asked and does not answer leaves nothing of what it said before."""
    pages = Pages()
    exported = Exported(pages, 0.0)
    exported.brought([row()])
    assert shown(pages, "/queues/q")[0] == 503
    assert exported.figures.read().gauges == {(UP, ()): 0}


def test_a_queue_that_is_gone_is_shown_no_more() -> None:
    """Neither as a page nor as a metric."""
    pages = Pages()
    exported = Exported(pages, 60.0)
    exported.brought([row("a"), row("b", 7)])
    exported.brought([row("b", 7)])
    assert shown(pages, "/queues/a")[0] == 404
    assert [each["queue"] for each in shown(pages, "/queues")[1]] == ["b"]
    gauges = exported.figures.read().gauges
    assert {labels for metric, labels in gauges if metric is READY} == {("b",)}


def test_a_queue_that_does_not_exist_is_absent_until_it_does(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip in a name is no empty queue; one that is declared later is there as soon as somebody looks again."""
    for pace in ("_LIST_EVERY", "_SHARE"):
        monkeypatch.setattr(f"qbridge_core.cli.watching.overview.{pace}", 0)
    client.declare("q")
    overview = Overview(client, ["q", "later", "slip"])
    assert overview.absent(overview.look()) == {"later", "slip"}
    client.declare("later")
    assert overview.absent(overview.look()) == {"slip"}


def test_queues_are_seldom_listed(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis goes through all its keys for that: once for those that are there, now and then for those that are not."""
    listed: list[int] = []
    queues = client.queues
    monkeypatch.setattr(client, "queues", lambda: listed.append(1) or queues())
    client.declare("q")
    there, slip = Overview(client, ["q"]), Overview(client, ["slip"])
    for _ in range(5):
        assert there.absent(there.look()) == set()
        assert slip.absent(slip.look()) == {"slip"}
    assert len(listed) == 2
    client.declare("slip")
    client.send("slip", 1)
    assert slip.absent(slip.look()) == set()
