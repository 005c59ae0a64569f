"""What tells whether a manager runs: ``running``, ``error`` and ``wait``, and an ERROR in the log at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    NotConnectedError,
    QBridgeError,
    TaskManager,
    TooManyStuckTasksError,
    hookimpl,
)
from qbridge_core.work.session import Session
from qbridge_memory import MemoryClient
from support.wait import wait_for


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says at ERROR."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_g20_a_manager_in_the_background_dies_loudly(
    client: MemoryClient, release: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says ERROR with the reason at once, ``error`` is set, ``wait`` returns, and it does not run any more."""
    client.send_many("q", range(3))
    manager = TaskManager(
        client, lambda _: release.wait(60), "q", "d", task_timeout=0.1, max_workers=3, max_abandoned=1, grace_period=0.5
    )
    with pytest.raises(TooManyStuckTasksError), manager:  # noqa: PT012 - the block is what is tested
        wait_for(lambda: manager.error, 10)
        assert "the worker of q stops: TooManyStuckTasksError: " in errors(caplog)[0]
        assert manager.wait(20)
        assert not manager.running
        assert isinstance(manager.error, TooManyStuckTasksError)
    assert not any(record.getMessage().endswith(" stopped") for record in caplog.records)
    assert isinstance(manager.error, TooManyStuckTasksError)


def test_g20_a_client_that_is_disconnected_ends_its_manager_loudly(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's ``disconnect`` is no request to stop."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    with pytest.raises(NotConnectedError), manager:  # noqa: PT012 - the block is what is tested
        client.disconnect()
        assert manager.wait(10)
        assert isinstance(manager.error, NotConnectedError)
    assert "the worker of q stops: NotConnectedError" in errors(caplog)[0]


def test_the_state_is_right_over_starts_and_stops(client: MemoryClient) -> None:
    """In the background and in another thread: it runs, stops without an error, and runs again."""
    manager = TaskManager(client, print, "q", "d", max_workers=1)
    assert (manager.running, manager.error, manager.wait(0)) == (False, None, True)
    for _ in range(2):
        with manager:
            assert (manager.running, manager.error, manager.wait(0.01)) == (True, None, False)
        assert (manager.running, manager.error, manager.wait()) == (False, None, True)
        thread = threading.Thread(target=manager.start, daemon=True)
        thread.start()
        wait_for(lambda: manager.running, 5)
        manager.stop()
        assert (manager.running, manager.error, manager.wait()) == (False, None, True)
        thread.join(5)


def test_an_error_is_kept_until_the_next_start(client: MemoryClient, release: threading.Event) -> None:
    """After ``start`` has raised, ``error`` tells why; a start that fails sets it, and one that works clears it."""
    client.send("q", 1)
    manager = TaskManager(
        client,
        lambda _: release.wait(60),
        "q",
        "d",
        task_timeout=0.05,
        max_workers=1,
        max_abandoned=1,
        grace_period=0.1,
    )
    with pytest.raises(TooManyStuckTasksError):
        manager.start()
    assert isinstance(manager.error, TooManyStuckTasksError)
    client.disconnect()
    with pytest.raises(NotConnectedError):
        manager.start()
    assert isinstance(manager.error, NotConnectedError)
    client.connect()
    release.set()
    with manager:
        assert (manager.running, manager.error) == (True, None)


@pytest.mark.parametrize("how", ["subscribe", "hook", "session"])
def test_g20_what_is_raised_at_the_start_ends_the_block(
    client: MemoryClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """``with manager`` does not wait for a session that never began, whatever was raised there."""

    def broken(*args: object, **kwargs: object) -> Any:
        raise LookupError("no luck")

    manager = TaskManager(client, print, "q", "d", max_workers=1)
    if how == "subscribe":
        client.subscribe = broken  # type: ignore[method-assign]
    elif how == "hook":
        manager._lifecycle.worker_started = broken  # not even a hook that is not guarded
    else:
        monkeypatch.setattr(Session, "_begin", broken)
    with pytest.raises(LookupError, match="no luck"):
        manager.run_until_idle(10)
    assert not manager.running
    with pytest.raises(LookupError, match="no luck"):
        manager.start()


def test_wait_in_a_handler_is_refused(client: MemoryClient) -> None:
    """A handler that waits for its manager would wait for itself; a negative time is no time."""
    raised: list[Exception] = []

    def handler(payload: object) -> None:
        try:
            manager.wait()
        except ConfigurationError as exc:
            raised.append(exc)

    client.send("q", 1)
    manager = TaskManager(client, handler, "q", "d", max_workers=1)
    manager.run_until_idle(10)
    assert "wait() waits for the handlers" in str(raised[0])
    with pytest.raises(ConfigurationError, match="timeout"):
        manager.wait(-1)


def test_g20_a_hook_that_hangs_delays_the_stop_by_no_more_than_the_grace_period(
    client: MemoryClient, release: threading.Event
) -> None:
    """``worker_stopping`` gets as long as the tasks; then what runs is handed back as always."""

    class Plugin:
        @hookimpl
        def qbridge_worker_stopping(self) -> None:
            release.wait(60)

    client.send("q", 1)
    running = threading.Event()

    def handler(payload: object) -> None:
        running.set()
        release.wait(60)

    manager = TaskManager(client, handler, "q", "d", max_workers=1, grace_period=0.3, plugins=[Plugin()])
    with manager:
        assert running.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert (client.stats("q").ready, manager.error) == (1, None)


@pytest.mark.parametrize("hold", ["client", "started hook"])
def test_g20_a_lock_that_is_never_released_cannot_keep_a_manager_from_stopping(
    client: MemoryClient, release: threading.Event, hold: str
) -> None:
    """With a lock of the client leaked, or a hook that never returns, ``stop`` returns in time and says so."""
    entered = threading.Event()

    def stuck(*args: object, **kwargs: object) -> Any:
        entered.set()
        release.wait(60)

    class Plugin:
        @hookimpl
        def qbridge_worker_started(self) -> None:
            if hold == "started hook":
                stuck()

    manager = TaskManager(client, print, "q", "d", max_workers=1, grace_period=0.3, plugins=[Plugin()])
    if hold == "client":
        client.flush = client.unsubscribe = stuck  # type: ignore[method-assign]

    def run() -> None:
        with contextlib.suppress(QBridgeError):
            manager.start()

    threading.Thread(target=run, daemon=True).start()
    wait_for(lambda: manager.running if hold == "client" else entered.is_set(), 10)
    began = time.monotonic()
    manager.stop()
    assert time.monotonic() - began < 5
    assert not manager.running
    if hold != "client":
        assert isinstance(manager.error, QBridgeError)
        assert "the stop was not done in time" in str(manager.error)
