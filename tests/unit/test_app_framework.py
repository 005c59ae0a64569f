"""What a framework, that the program lives in, does for its apps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import App, ConfigurationError, TaskContext
from qbridge_core.app import framework
from qbridge_core.app.framework import Framework, use_framework

calls: list[str] = []


class Noting(Framework):
    """Has a broker in memory, and notes what is called."""

    def url(self) -> str:
        """In memory."""
        return "memory://"

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Notes what comes before and after."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def noted_coroutine(*args: Any, **kwargs: Any) -> Any:
                calls.append("before")
                await function(*args, **kwargs)
                calls.append("after")

            return noted_coroutine

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            calls.append("before")
            function(*args, **kwargs)
            calls.append("after")

        return noted


@pytest.fixture(autouse=True)
def noting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The framework of this process, for one test; no other says which broker."""
    monkeypatch.delenv("QBRIDGE_URL", raising=False)
    before = list(framework._used)
    use_framework(Noting())
    calls.clear()
    yield
    framework._used[:] = before


@pytest.mark.parametrize("mixed", [False, True], ids=["threads", "loop"])
def test_a_framework_stands_around_each_function_and_says_which_broker(mixed: bool) -> None:
    """Of a function and of a coroutine, with its context; a plain call is that of the function alone."""
    app = App()

    @app.task(name="draw")
    def draw(task: TaskContext, path: str) -> None:
        calls.append(f"draw {path} {task.attempt}")

    if mixed:

        @app.task(name="fetch")
        async def fetch(task: TaskContext, path: str) -> None:
            calls.append(f"fetch {path} {task.attempt}")

    draw("here")
    assert calls == ["draw here 1"]
    draw.send("a")
    app.run_until_idle()
    assert calls[1:] == ["before", "draw a 1", "after"]
    if mixed:
        fetch.send("b")
        app.run_until_idle()
        assert calls[4:] == ["before", "fetch b 1", "after"]
    app.close()


def test_an_app_that_is_opened_has_the_broker_that_was_named() -> None:
    """The framework is not asked then."""
    app = App()
    with pytest.raises(ConfigurationError, match="scheme"), app.open("nothing://"):
        pass
