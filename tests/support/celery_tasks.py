"""A producer of Celery's in the test's own process, and an app of QBridge's that works off what it sends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from qbridge_core import App, CeleryFormat, EnvelopeFormat
from qbridge_core.task.formats.base import Format

URL = "kombu+memory://?allow_loss=true"


class Producer:
    """A program of Celery's: the task ``shop.add``, and whatever a test sends with it."""

    def __init__(self, queue: str, **settings: Any) -> None:
        self.celery = Celery("producer", broker="memory://", set_as_current=False)
        self.celery.conf.update(task_default_queue=queue, **settings)

        @self.celery.task(name="shop.add", shared=False)  # type: ignore[untyped-decorator]  # Celery has no types
        def add(number: int, more: int = 0) -> int:
            return number + more

        self.add = add


@contextmanager
def works(queue: str, *formats: Format) -> Iterator[tuple[App, list[Any]]]:
    """An app that does the same tasks, and a list of what they were called with."""
    app = App(on_unknown=0)
    app.queue(queue, formats=formats or [CeleryFormat(), EnvelopeFormat()], max_workers=1)
    calls: list[Any] = []

    @app.task(name="shop.add", queue=queue, max_retries=3)
    def add(number: Any, more: Any = 0) -> None:
        calls.append((number, more))

    with app.open(URL):
        yield app, calls
