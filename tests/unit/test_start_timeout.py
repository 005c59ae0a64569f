"""``connect(url, start_timeout=…)``: for a broker that is not up yet."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Iterator, Mapping

import pytest

from qbridge_core import (
    App,
    AuthenticationError,
    BrokerUnavailableError,
    ConfigurationError,
    QueueClient,
    Supervisor,
    connect,
)
from qbridge_core.contract import registry as registry_module
from qbridge_core.contract.registry import register_backend
from qbridge_memory import MemoryClient

seen: list[tuple[str, Mapping[str, object]]] = []


class Late(MemoryClient):
    """Its broker is up at the third try."""

    tries = 0
    error: Exception = BrokerUnavailableError("nobody there")

    def connect(self) -> None:
        """Fail twice."""
        self.tries += 1
        if self.tries < 3:
            raise self.error
        super().connect()


@pytest.fixture
def late() -> Iterator[Late]:
    """The client that ``late://`` makes."""
    client = Late()

    def make(url: str, options: Mapping[str, object]) -> QueueClient:
        seen.append((url, options))
        return client

    seen.clear()
    register_backend("late", make)
    yield client
    registry_module._registered.pop("late")
    client.disconnect()


@pytest.mark.parametrize(
    ("url", "keyword", "shown"),
    [
        ("late://u:s3cret@h/q", {"start_timeout": 5}, "late://u:s3cret@h/q"),
        ("late://h?start_timeout=5", {}, "late://h"),
        ("late://h/q?a=1&start_timeout=5&b=2", {}, "late://h/q?a=1&b=2"),
        ("late://h/q?a=1&start_timeout=5", {"start_timeout": 7, "x": 1}, "late://h/q?a=1"),
    ],
)
def test_a_broker_that_is_not_up_yet_is_waited_for(
    late: Late, url: str, keyword: dict[str, float], shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Within ``start_timeout`` it is tried again, loudly; the backend does not see the option."""
    connect(url, **keyword)
    assert late.tries == 3
    assert seen == [(shown, {name: value for name, value in keyword.items() if name == "x"})]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].endswith(": nobody there")
    assert "s3cret" not in warnings[0]


def test_an_app_waits_too(late: Late, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is opened, and where its worker is what connects; the first message makes one try."""
    app = App()

    @app.task(name="a")
    def a() -> None: ...

    with app.open("late://h", start_timeout=5):
        assert late.tries == 3
    monkeypatch.setenv("QBRIDGE_URL", "late://h")
    late.tries = 0
    with pytest.raises(BrokerUnavailableError):
        a.send()
    assert late.tries == 1
    monkeypatch.setattr("qbridge_core.work.workers.run_workers", lambda *managers, poll_timeout: None)
    app.run_worker(start_timeout=5)
    assert late.tries == 3
    app.close()
    with pytest.raises(ConfigurationError, match="start_timeout"):
        app.run_worker(start_timeout=-1)


def test_a_supervisor_waits_for_a_minute() -> None:
    """Who says nothing may start a supervisor and its broker together; and 0 is how not to wait."""
    assert inspect.signature(Supervisor).parameters["start_timeout"].default == 60.0


def test_without_it_nothing_is_waited_for(late: Late) -> None:
    """The default is one try; and a broker that does not come raises its error in time."""
    with pytest.raises(BrokerUnavailableError):
        connect("late://h")
    assert late.tries == 1
    late.tries = -1_000
    began = time.monotonic()
    with pytest.raises(BrokerUnavailableError):
        connect("late://h", start_timeout=0.3)
    assert 0.25 < time.monotonic() - began < 5


def test_only_a_missing_broker_is_waited_for(late: Late) -> None:
    """Wrong credentials do not become right by waiting."""
    late.error = AuthenticationError("no")
    with pytest.raises(AuthenticationError):
        connect("late://h", start_timeout=60)
    assert late.tries == 1


@pytest.mark.parametrize("value", [-1, "5", True, float("nan"), None])
def test_a_senseless_time_is_named(late: Late, value: object) -> None:
    """In a keyword as in the URL's query."""
    with pytest.raises(ConfigurationError, match="start_timeout"):
        connect("late://h", start_timeout=value)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="start_timeout"):
        connect("late://h?start_timeout=soon")
