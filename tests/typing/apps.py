"""Never run, only type-checked: arguments of tasks are those of their functions; what is wrong is refused.

A comment that ignores an error is itself an error where there is none, so each of them is a test.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypedDict, assert_type

from qbridge_core import App, AppTask, ExponentialBackoff, RunReport, TaskContext, TaskMessage


class Mail(TypedDict):
    """A typed payload."""

    to: str


app = App(on_unknown=60.0)
app.queue("emails", max_workers=5, executor="process", dead_letter_queue="emails.dead")


@app.task(queue="emails", max_retries=8, backoff=ExponentialBackoff(base=1, cap=30), task_timeout=15)
def send_mail(mail: Mail, locale: str = "en") -> int:
    """A function."""
    return len(mail["to"] + locale)


@app.task
def bare(number: int) -> None:
    """A decorator without arguments."""


@app.task(name="deliver", aliases=["old"], whole_payload=False)
async def deliver(task: TaskContext, url: str, *, event: dict[str, Any]) -> str:
    """A coroutine with its context."""
    return task.task_id + url + str(event)


@app.task
def anything(first: Any, second: int = 1) -> None:
    """What may be anything is checked by nobody."""


@app.task
def with_context(task: TaskContext, number: int) -> None:
    """The same, bare."""


@app.task
async def bare_with_context(task: TaskContext, url: str, event: dict[str, Any] | None = None) -> str:
    """A coroutine with its context, bare."""
    return task.task_id + url + str(event)


@app.task
async def bare_coroutine(url: str, event: dict[str, Any]) -> int:
    """A coroutine, bare, with an Any in its signature."""
    return len(url + str(event))


@app.task
def nothing() -> None:
    """No payload at all."""


@app.task(queue="numbers")
def context_alone(task: TaskContext, /) -> str:
    """Only the context."""
    return task.task_id


@app.task
def by_name(*, number: int) -> None:
    """Arguments by name alone."""


@app.task(queue="numbers")
async def precise(number: float) -> float:
    """A coroutine without its context: it calls ``current_task``."""
    return number


async def use() -> None:
    """All that can be done with them."""
    mail = Mail(to="ann@example.org")
    assert_type(send_mail.send(mail), str)
    assert_type(send_mail.send(mail, locale="de"), str)
    assert_type(await send_mail.asend(mail), str)
    assert_type(send_mail(mail), int)
    assert_type(send_mail.message(mail), TaskMessage)
    deliver.send("http://…", event={"a": 1})
    assert_type(await deliver("http://…", event={"a": 1}), str)
    assert_type(await bare_with_context("http://…"), str)
    assert_type(await bare_with_context.asend(url="http://…", event=None), str)
    assert_type(bare_with_context.options(delay=5).message("http://…", {"a": 1}), TaskMessage)
    assert_type(bare_coroutine.send("http://…", event={}), str)
    assert_type(await bare_coroutine("http://…", {}), int)
    nothing.send()
    assert_type(context_alone(), str)
    context_alone.send()
    by_name.send(number=5)
    called: Coroutine[Any, Any, float] = precise(2.0)
    assert_type(await called, float)
    assert_type(await precise(2.0), float)
    assert_type(precise.send(2.0), str)
    anything.send(first=5, second=2)
    with_context.send(5)
    bare.send(5)
    bare.options(delay=60, task_id="order-7", headers={"tenant": "blue"}).send(5)
    assert_type(await bare.options(at=datetime.now(UTC), publish_timeout=1.0).asend(number=5), str)
    assert_type(app.send_many([bare.message(1), send_mail.message(mail)]), list[str])
    assert_type(app.run_until_idle(), RunReport)
    with app.open("memory://", max_message_bytes=1000) as client:
        client.stats("emails")
    task: AppTask[Callable[[int], None]] = bare
    assert_type(task.name, str)
    bare.function(number=5)


async def misuse() -> None:
    """What a type checker refuses."""
    mail = Mail(to="ann@example.org")
    send_mail.send()  # type: ignore[call-arg]
    send_mail.send("ann@example.org")  # type: ignore[arg-type]
    send_mail.send(mail, locale=5)  # type: ignore[arg-type]
    send_mail.send(mail, language="de")  # type: ignore[call-arg]
    send_mail.message(mail, "de", 5)  # type: ignore[call-arg]
    send_mail.options(delay=60).send(5)  # type: ignore[arg-type]
    send_mail.options(later=60)  # type: ignore[call-arg]
    send_mail(5)  # type: ignore[arg-type]
    await send_mail.asend(mail, 5)  # type: ignore[arg-type]
    precise.send("2")  # type: ignore[arg-type]
    with_context.send("5")  # type: ignore[call-overload]
    with_context.send()  # type: ignore[call-overload]
    with_context.options(delay=60).send("5")  # type: ignore[call-overload]
    with_context("5")  # type: ignore[call-overload]
    deliver.send(5, event={})  # type: ignore[call-overload]
    deliver.send("http://…")  # type: ignore[call-overload]
    deliver.send("http://…", event=5)  # type: ignore[call-overload]
    await deliver.asend("http://…", event={}, more=1)  # type: ignore[call-overload]
    await deliver("http://…", event=5)  # type: ignore[call-overload]
    bare_with_context.message("http://…", 5)  # type: ignore[call-overload]
    bare_coroutine.send("http://…", 5)  # type: ignore[arg-type]
    bare_coroutine.send(5, {})  # type: ignore[arg-type]
    await bare_coroutine("http://…")  # type: ignore[call-arg]
    anything.send(5, second="2")  # type: ignore[call-overload]
    context_alone.send(5)  # type: ignore[call-overload]
    nothing.send(5)  # type: ignore[call-arg]
    nothing(5)  # type: ignore[call-arg]
    by_name.send(5)  # type: ignore[call-arg]
    app.task(5)  # type: ignore[call-overload]
    app.queue("emails", max_worker=5)  # type: ignore[call-arg]
    app.queue("emails", executor="fork")  # type: ignore[arg-type]
    app.send_many([mail])  # type: ignore[list-item]


@send_mail.version(2)
def from_first(payload: dict[str, Any]) -> dict[str, Any]:
    """An upgrade stays what it is."""
    return {"mail": payload}


assert_type(from_first({}), dict[str, Any])
