"""Never run, only type-checked: ``delay`` has the arguments of the function, too."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, assert_type

from qbridge_core import TaskContext
from qbridge_core.contrib.celery import CeleryApp, CeleryTask, TaskId

app = CeleryApp(on_unknown=60.0)


@app.task(queue="emails", max_retries=8)
def confirm(order: int, locale: str = "en") -> int:
    """A function."""
    return order + len(locale)


@app.task
async def deliver(task: TaskContext, url: str, event: dict[str, Any]) -> str:
    """A coroutine with its context, bare."""
    return task.task_id + url + str(event)


def use() -> CeleryTask[Any]:
    """What is right, and what is wrong."""
    assert_type(confirm.delay(7), TaskId)
    assert_type(confirm.delay(7, locale="de").id, str)
    assert_type(confirm(7), int)
    assert_type(confirm.apply_async((7,), {"locale": "de"}, countdown=3, expires=datetime.now(UTC)), TaskId)
    assert_type(confirm.send(7), str)
    confirm.options(delay=3).delay(7)
    deliver.delay("https://example.org", event={})
    confirm.delay("7")  # type: ignore[arg-type]
    confirm.delay()  # type: ignore[call-arg]
    deliver.delay(7, event={})  # type: ignore[call-overload]
    confirm.apply_async(7)  # type: ignore[arg-type]
    confirm.apply_async((7,), countdown="soon")  # type: ignore[arg-type]
    return confirm
