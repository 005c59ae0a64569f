"""What leaves a client: errors of QBridge's, the caller's own mistakes, and nothing else."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

import pytest

from qbridge_core import PermanentError, QBridgeError
from qbridge_core.backend import BrokerUnavailableError, callers_own, guarded, is_passing


def _translated(exc: Exception) -> QBridgeError:
    return PermanentError(f"unexpected: {exc}")


class _Client:
    """A client whose driver raises what it is told to."""

    @guarded(_translated)
    def fail(self, error: Exception) -> None:
        """Raise it."""
        raise error

    @guarded(_translated)
    def publish_many(self, messages: Iterable[object]) -> int:
        """Count what the caller gives."""
        return len(list(callers_own(messages)))


def test_g18_a_foreign_error_becomes_one_of_qbridges_and_its_cause() -> None:
    """Whatever a driver raises, and no error of QBridge's is translated again."""
    error, ours = KeyError("deep in a driver"), BrokerUnavailableError("away")
    with pytest.raises(PermanentError, match="unexpected") as caught:
        _Client().fail(error)
    assert caught.value.__cause__ is error
    with pytest.raises(BrokerUnavailableError) as passed:
        _Client().fail(ours)
    assert passed.value is ours


def test_g18_arguments_that_do_not_exist_are_a_type_error() -> None:
    """They are a mistake of the caller's, which Python names best."""
    with pytest.raises(TypeError, match="no_such_argument"):
        _Client().fail(no_such_argument=1)  # type: ignore[call-arg]


def test_g18_what_the_callers_own_iterable_raises_stays_what_it_is() -> None:
    """A generator that fails while its messages are published is not the broker's fault."""

    def messages() -> Iterator[object]:
        yield 1
        raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own") as caught:
        _Client().publish_many(messages())
    assert caught.value.__cause__ is None
    assert _Client().publish_many([1, 2]) == 2


@pytest.mark.parametrize(
    ("exc", "passing"),
    [
        (OSError(errno.EMFILE, "Too many open files"), True),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("generator raised StopIteration"), False),
        (KeyError("x"), False),
    ],
    ids=repr,
)
def test_what_the_system_may_give_later_is_told_from_a_fault(exc: Exception, passing: bool) -> None:
    """A descriptor, memory and a thread may be there again; another error is the same at each try."""
    assert is_passing(exc) is passing
