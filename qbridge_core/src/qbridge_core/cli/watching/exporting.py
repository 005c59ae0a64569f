"""What ``qbridge exporter`` shows: what the last look at the queues has brought, for Prometheus and as JSON."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

from qbridge_core.cli.watching.overview import Row
from qbridge_core.runtime.clock import monotonic
from qbridge_core.telemetry.catalogue import UP
from qbridge_core.telemetry.depths import show_depth
from qbridge_core.telemetry.figures import Figures
from qbridge_core.telemetry.pages import Page, Pages

QUEUES: Final = "/queues"
_JSON: Final = "application/json"
_NOT_YET: Final = "the broker has not answered yet"


class Exported:
    """The last look, as pages below ``/queues`` and as figures. Thread-safe.

    Args:
        pages: where a page for each queue is added when it is first seen.
        stale_after: seconds after which a look does not count any more.
        queues: those that have their pages from the beginning, before anybody knows what is in them.
    """

    def __init__(self, pages: Pages, stale_after: float, queues: Sequence[str] = ()) -> None:
        self.figures = Figures()
        self._pages = pages
        self._stale_after = stale_after
        self._lock = threading.Lock()
        self._rows: dict[str, Row] = {}
        self._error = _NOT_YET
        self._looked_at = monotonic()
        pages.add(QUEUES, self._all)
        self._add_pages(queues)
        self.figures.show(UP, 0)

    def brought(self, rows: Sequence[Row]) -> None:
        """A look has brought this."""
        with self._lock:
            gone = self._rows.keys() - {row.queue for row in rows}
            self._rows = {row.queue: row for row in rows}
            self._error, self._looked_at = "", monotonic()
            for queue in gone:
                show_depth(self.figures, queue, None)
            for row in rows:
                show_depth(self.figures, row.queue, row)
            self.figures.show(UP, 1)
        self._add_pages([row.queue for row in rows])

    def failed(self, error: str) -> None:
        """A look has brought nothing: what was there before may not be true any more."""
        with self._lock:
            self._error = error
            for queue in self._rows:
                show_depth(self.figures, queue, None)
            self.figures.show(UP, 0)

    def check(self) -> None:
        """Let the last look fail if it is too long ago: the broker is asked, and has not answered."""
        if not self._error and monotonic() - self._looked_at > self._stale_after:
            self.failed(f"the broker has not answered for {self._stale_after:g} s")

    def _add_pages(self, queues: Sequence[str]) -> None:
        for queue in queues:
            self._pages.add(f"{QUEUES}/{queue}", functools.partial(self._one, queue))

    def _all(self) -> Page:
        self.check()
        return self._page([_as_json(row) for row in self._rows.values()])

    def _one(self, queue: str) -> Page:
        self.check()
        row = self._rows.get(queue)
        if row is None and not self._error:
            return _page(HTTPStatus.NOT_FOUND, {"error": f"there is no queue {queue!r}"})
        return self._page(row and _as_json(row))

    def _page(self, found: object) -> Page:
        """Whoever scales must not take a broker that is away for an empty queue."""
        if self._error:
            return _page(HTTPStatus.SERVICE_UNAVAILABLE, {"error": self._error})
        return _page(HTTPStatus.OK, found)


def _as_json(row: Row) -> dict[str, Any]:
    names = ("queue", "ready", "in_flight", "delayed", "dead", "oldest_age", "paused")
    return {name: getattr(row, name) for name in names} | {"backlog": _backlog(row)}


def _backlog(row: Row) -> int:
    """What workers have to do now. Those of a paused queue rest, however many there are."""
    return 0 if row.paused else row.ready + (row.in_flight or 0)


def _page(status: HTTPStatus, found: object) -> Page:
    return Page(status, _JSON, json.dumps(found).encode() + b"\n")
