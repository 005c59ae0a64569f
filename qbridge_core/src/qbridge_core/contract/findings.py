"""What a look at a broker and its queues finds, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from qbridge_core.contract.checks import check_queue_name, require_seconds
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.errors import (
    BrokerUnavailableError,
    ConfigurationError,
    NotConnectedError,
    QBridgeError,
    TransientError,
)
from qbridge_core.runtime.clock import monotonic


class FindingStatus(StrEnum):
    """What a finding says of what was looked at."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found.

    Attributes:
        check: the name of the check, which stays the same.
        status: a ``warning`` may cost messages or time some day; a ``problem`` does now, or stops a worker.
        text: what is so, and what that means, without a password.
        mend: the command or the setting that mends it; "" where there is nothing to mend.
        queue: the queue that it is about; "" for the whole broker.
    """

    check: str
    status: FindingStatus
    text: str
    mend: str = ""
    queue: str = ""


@dataclass(frozen=True, slots=True)
class QueueUse:
    """How a queue is used; what is not known is ``None``, and not compared with anything.

    Attributes:
        queue: where the tasks come from.
        dead_letter_queue: where rejected messages go.
        task_timeout: seconds that a run may take.
        workers: how many tasks one worker process runs at once.
    """

    queue: str
    dead_letter_queue: str | None = None
    task_timeout: float | None = None
    workers: int | None = None

    @property
    def letters(self) -> str:
        """Where rejected messages go, also where that was not said."""
        return self.dead_letter_queue or default_dead_letter_queue(self.queue)

    @property
    def declaration(self) -> str:
        """The command that makes both queues."""
        import shlex  # here, for few look

        return f"qbridge declare {shlex.quote(self.queue)} --dead {shlex.quote(self.letters)}"


@dataclass(frozen=True, slots=True)
class Check:
    """One look at something; makes its findings.

    Attributes:
        name: the same for all findings of this kind.
        queue: what it is about; "" for the whole broker.
    """

    name: str
    queue: str = ""

    def ok(self, text: str) -> Finding:
        """It is as it should be."""
        return Finding(self.name, FindingStatus.OK, text, queue=self.queue)

    def warning(self, text: str, mend: str = "") -> Finding:
        """It may cost something some day."""
        return Finding(self.name, FindingStatus.WARNING, text, mend, self.queue)

    def problem(self, text: str, mend: str = "") -> Finding:
        """It costs messages, or stops a worker."""
        return Finding(self.name, FindingStatus.PROBLEM, text, mend, self.queue)

    def no_queue(self, queue: str, use: QueueUse) -> Finding:
        """One of the queues of a use does not exist."""
        return self.warning(f"there is no queue {queue!r}: what is sent to it is refused", use.declaration)

    def not_checked(self, why: str, mend: str = "") -> Finding:
        """Nobody knows; ``mend`` says how it can be looked at."""
        return Finding(self.name, FindingStatus.NOT_CHECKED, why, mend, self.queue)


Look = Callable[[Check], Iterable[Finding]]
"""Finds out what a check is for, by calls that change nothing. What it raises is no finding but a reason."""


def examine(looks: Iterable[tuple[Check, Look]], timeout: float) -> list[Finding]:
    """Make checks one after the other; whatever one of them raises, the others are made.

    A broker that does not answer one of them is not asked by those behind it.

    Args:
        looks: the checks, and what finds it out.
        timeout: seconds after which none is begun.

    Raises:
        NotConnectedError: the client was disconnected.
    """
    deadline = monotonic() + timeout
    found: list[Finding] = []
    away = ""
    for check, look in looks:
        if not away and monotonic() > deadline:
            away = f"the {timeout:g} s for looking were over"
        if away:
            found.append(check.not_checked(away))
            continue
        try:
            found += look(check)
        except NotConnectedError:
            raise
        except BrokerUnavailableError as exc:
            away = "the broker does not answer"
            found.append(check.problem(f"{away}: {exc}"))
        except TransientError as exc:
            found.append(check.problem(str(exc)))
        except QBridgeError as exc:
            found.append(check.not_checked(str(exc)))
        except Exception as exc:  # noqa: BLE001 - a look at one thing must not cost those at the others
            # Its text is nobody's: it may have a password in it.
            found.append(check.not_checked(f"looking at it failed with {type(exc).__name__}"))
    return found


def check_uses(queues: Iterable[str | QueueUse], timeout: object) -> tuple[list[QueueUse], float]:
    """Return what a caller of ``diagnose`` named, and the seconds that it may take.

    Raises:
        ConfigurationError: it is no queue, or the timeout no number of seconds.
    """
    if isinstance(queues, str | QueueUse) or not isinstance(queues, Iterable):
        raise ConfigurationError("diagnose takes several queues; one of them as ['queue']")
    return [_use(each) for each in queues], require_seconds("timeout", timeout, positive=True)


def _use(given: object) -> QueueUse:
    use = given if isinstance(given, QueueUse) else QueueUse(check_queue_name(given))
    check_queue_name(use.queue)
    if use.dead_letter_queue is not None:
        check_queue_name(use.dead_letter_queue, what="dead_letter_queue")
    return use


def is_well(findings: Sequence[Finding]) -> bool:
    """Whether none of them is a warning or a problem."""
    return not any(each.status in {FindingStatus.WARNING, FindingStatus.PROBLEM} for each in findings)
