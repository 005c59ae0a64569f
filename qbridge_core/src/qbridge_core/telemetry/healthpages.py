"""The pages ``/livez`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from qbridge_core.telemetry.health import Health, Verdicts
from qbridge_core.telemetry.pages import TEXT, Page, Pages


def add_health(pages: Pages, ask: Callable[[], Health]) -> None:
    """Show ``/livez`` and ``/readyz``: 200, or 503 with the reason.

    Args:
        pages: where to show them.
        ask: tells the health; quick, and waits for nobody.
    """
    verdicts = Verdicts()
    pages.add("/livez", lambda: _livez(verdicts.note(ask())))
    pages.add("/readyz", lambda: _readyz(ask()))


def _livez(health: Health) -> Page:
    if health.alive:
        return Page(HTTPStatus.OK, TEXT, b"alive\n")
    return Page(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{health}\n{health.stack}".encode())


def _readyz(health: Health) -> Page:
    status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
    return Page(status, TEXT, f"{health}\n".encode())
