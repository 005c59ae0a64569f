"""Checks are made one after the other, whatever one of them raises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    Finding,
    FindingStatus,
    NotConnectedError,
    QueueClient,
    QueueFullError,
    UnsupportedError,
    connect,
)
from qbridge_core.backend import Check, Look, examine
from qbridge_memory import MemoryClient

OK, PROBLEM, NOT_CHECKED = FindingStatus.OK, FindingStatus.PROBLEM, FindingStatus.NOT_CHECKED


def fine(check: Check) -> Iterator[Finding]:
    """Finds nothing."""
    yield check.ok("fine")


def raising(error: Exception) -> Look:
    """Cannot find out."""

    def look(check: Check) -> list[Finding]:
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (AuthenticationError("not allowed"), NOT_CHECKED, "not allowed"),
        (QueueFullError("full"), PROBLEM, "full"),
        (ValueError("with a password in it"), NOT_CHECKED, "looking at it failed with ValueError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_one_check_is_its_finding(error: Exception, status: FindingStatus, says: str) -> None:
    """The others are made, and only QBridge's own errors are shown."""
    found = examine([(Check("first", "q"), raising(error)), (Check("second"), fine)], 30.0)
    assert found == [Finding("first", status, says, queue="q"), Finding("second", OK, "fine")]


def test_a_broker_that_does_not_answer_is_asked_once() -> None:
    """Those behind it are not checked: each would wait for as long again."""
    away = raising(BrokerUnavailableError("away"))
    first, second = examine([(Check("first"), away), (Check("second"), fine)], 30.0)
    assert first == Finding("first", PROBLEM, "the broker does not answer: away")
    assert second == Finding("second", NOT_CHECKED, "the broker does not answer")


def test_no_check_is_begun_when_the_time_is_over() -> None:
    """It is said of each that there was no time for it."""
    found = examine([(Check(str(number)), fine) for number in range(3)], -1.0)
    assert {(each.status, each.text) for each in found} == {(NOT_CHECKED, "the -1 s for looking were over")}


def test_a_client_that_was_disconnected_meanwhile_says_so() -> None:
    """That is no finding about the broker."""
    with pytest.raises(NotConnectedError):
        examine([(Check("first"), raising(NotConnectedError("gone"))), (Check("second"), fine)], 30.0)


def test_a_backend_that_does_not_look_says_so() -> None:
    """One that was written before there was ``diagnose`` has no capability for it."""

    class Older(MemoryClient):
        """Does not know of it."""

        capabilities = replace(MemoryClient.capabilities, diagnoses=False)
        diagnose = QueueClient.diagnose

    with Older() as client, pytest.raises(UnsupportedError, match="Older cannot look at its broker"):
        client.diagnose(["q"])
    with connect("memory://") as client:
        assert client.capabilities.diagnoses
