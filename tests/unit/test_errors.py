"""The tree of errors."""

from __future__ import annotations

import inspect
import re

import pytest

import qbridge_core
from qbridge_core import errors
from qbridge_core.errors import ConfigurationError, IdleTimeoutError, PermanentError, QBridgeError, TransientError

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", CLASSES)
def test_everything_is_a_qbridge_error(kind: type[Exception]) -> None:
    """One ``except QBridgeError`` catches whatever QBridge raises on purpose."""
    assert issubclass(kind, QBridgeError)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_public(kind: type[Exception]) -> None:
    """Each error can be imported from the package itself."""
    assert getattr(qbridge_core, kind.__name__) is kind


@pytest.mark.parametrize("kind", CLASSES)
def test_no_error_helps_by_a_retry_and_does_not(kind: type[Exception]) -> None:
    """An error is transient, permanent or a matter of configuration, never two of them."""
    assert sum(issubclass(kind, branch) for branch in (TransientError, PermanentError, ConfigurationError)) <= 1


def test_the_drawing_shows_every_error_below_its_parent() -> None:
    """The tree in the module's docstring is the tree of the classes."""
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ((?:[│ ]   )*)(?:[├└]── )?([A-Z]\w+Error)\b", line)
        if match:
            depth = len(match[1]) // 4 + ("── " in line)
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("BrokerUnavailableError", ConnectionError),
        ("IdleTimeoutError", TimeoutError),
    ],
)
def test_errors_are_caught_by_the_builtin_of_their_kind(kind: str, builtin: type[Exception]) -> None:
    """Where Python has a word for it, ``except`` with that word works too."""
    assert issubclass(getattr(errors, kind), builtin)


def test_an_idle_timeout_carries_its_report() -> None:
    """The report of an interrupted run is not lost with the exception."""
    report = object()
    assert IdleTimeoutError("text", report).report is report
