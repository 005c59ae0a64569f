"""The second argument of a handler: who gets it, what it is, and who is left alone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

from qbridge_core import TaskContext, TaskManager
from qbridge_core.execute.executor import checked_handler
from qbridge_memory import MemoryClient
from support.handlers import note_with_context, note_with_context_later, notes

seen: list[Any] = []


def remember(payload: object, task: TaskContext) -> None:
    """Note what the handler got."""
    seen.append((payload, task.task_id, task.attempt, task.headers["h"], task.cancelled, task.remaining > 1))


async def remember_later(payload: object, task: TaskContext) -> None:
    """The same as a coroutine."""
    remember(payload, task)


class Remembering:
    """A callable object, also for its method."""

    def __call__(self, payload: object, task: TaskContext, /) -> None:
        """Note what it got."""
        remember(payload, task)

    def method(self, payload: object, task: TaskContext, more: int = 3) -> None:
        """Note what it got."""
        assert more == 3
        remember(payload, task)


def prefixed(prefix: str, payload: object, task: TaskContext) -> None:
    """A function for a partial."""
    assert prefix == "fixed"
    remember(payload, task)


def traced(function: Callable[..., object]) -> Callable[..., object]:
    """A decorator that passes on whatever comes."""

    @functools.wraps(function)
    def call(*args: object) -> object:
        return function(*args)

    return call


HANDLERS: dict[str, Any] = {
    "function": remember,
    "coroutine function": remember_later,
    "object": Remembering(),
    "method with a third parameter": Remembering().method,
    "partial": functools.partial(prefixed, "fixed"),
    "partial of a coroutine function": functools.partial(remember_later),
    "decorated": traced(remember),
}


@pytest.mark.parametrize("kind", HANDLERS)
def test_g10_a_handler_with_a_second_parameter_gets_its_context(client: MemoryClient, kind: str) -> None:
    """Whatever kind of callable it is, it sees the id, the attempt, the headers, the deadline and the flag."""
    seen.clear()
    client.send("q", kind, task_id="t", headers={"h": "1"})
    assert TaskManager(client, HANDLERS[kind], "q", "d", max_workers=1).run_until_idle(10.0).succeeded == 1
    assert seen == [(kind, "t", 1, "1", False, True)]


@pytest.mark.parametrize("handler", [note_with_context, note_with_context_later])
def test_g10_a_handler_in_a_child_process_gets_its_context_too(
    client: MemoryClient, handler: Any, tmp_path: Any
) -> None:
    """The second argument crosses the border between processes, for functions and coroutine functions."""
    file = str(tmp_path / "notes")
    client.send("q", file, task_id="t", headers={"h": "1"})
    manager = TaskManager(client, handler, "q", "d", executor="process", max_workers=1)
    assert manager.run_until_idle(60.0).succeeded == 1
    assert notes(file) == ["t 1 {'h': '1'} False True"]


def inject(function: Callable[..., object]) -> Callable[..., object]:
    """A decorator that supplies the second argument itself."""

    @functools.wraps(function)
    def call(payload: object) -> object:
        return function(payload, "a database")

    return call


ALONE: dict[str, Any] = {
    "default": lambda payload, task=None: seen.append((payload, task)),
    "args": lambda *args: seen.append(args),
    "args and keywords": lambda payload, *args, **keywords: seen.append((payload, *args, *keywords)),
    "builtin": seen.append,
    "class": int,
    "print": print,
    "partial": functools.partial(lambda first, payload: seen.append((first, payload)), "first"),
    "partial with a keyword": functools.partial(lambda payload, task: seen.append((payload, task)), task="own"),
    "injecting decorator": inject(lambda payload, database: seen.append((payload, database))),
    "mock": mock.Mock(side_effect=lambda *args: seen.append(args) and None),
}
GOT: dict[str, Any] = {
    "default": ("5", None),
    "args": ("5",),
    "args and keywords": ("5",),
    "builtin": "5",
    "partial": ("first", "5"),
    "partial with a keyword": ("5", "own"),
    "injecting decorator": ("5", "a database"),
    "mock": ("5",),
}


@pytest.mark.parametrize("kind", ALONE)
def test_g10_a_handler_that_can_do_with_one_argument_gets_one(client: MemoryClient, kind: str) -> None:
    """Defaults, ``*args``, builtins, partials and decorators are called with the payload alone, directly."""
    seen.clear()
    client.send("q", "5")
    assert checked_handler(ALONE[kind]) is ALONE[kind]
    assert TaskManager(client, ALONE[kind], "q", "d", max_workers=1).run_until_idle(10.0).succeeded == 1
    assert seen == ([GOT[kind]] if kind in GOT else [])


@pytest.mark.parametrize("coroutine", [False, True])
def test_g13_a_traceback_starts_in_a_handler_with_context(client: MemoryClient, coroutine: bool) -> None:
    """What stands between the worker and the handler does not show in the dead letter."""

    def fail(payload: object, task: TaskContext) -> None:
        raise ValueError(payload)

    async def fail_later(payload: object, task: TaskContext) -> None:
        raise ValueError(payload)

    client.send("q", 1)
    handler: Any = fail_later if coroutine else fail
    TaskManager(client, handler, "q", "d", max_retries=0, max_workers=1).run_until_idle(10.0)
    lines = client.dead_letters("d")[0].traceback.splitlines()
    assert f"in {handler.__name__}" in lines[1]
    assert "qbridge_core" not in "".join(lines)
