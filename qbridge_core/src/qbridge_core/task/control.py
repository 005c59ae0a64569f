"""What a handler may raise to say what should become of its task.

Any other exception is a failure and follows the retry policy.
"""

from __future__ import annotations

from qbridge_core.contract.checks import require_seconds
from qbridge_core.errors import ConfigurationError


class TaskControl(Exception):
    """Base class of :class:`Retry`, :class:`Reject` and :class:`Snooze`."""

    __module__ = "qbridge_core"  # what a dead letter calls it, wherever it is defined


class Retry(TaskControl):
    """This attempt failed; try again after a delay of the handler's choice.

    Counts as a failed attempt, so after ``max_retries`` the task is dead-lettered all the same. ``raise Retry(after=60)
    from exc`` records ``exc`` as the failure.

    Args:
        reason: goes into logs and the dead letter.
        after: seconds; ``None`` means the policy's own delay.

    Raises:
        ConfigurationError: ``after`` is negative or not a number, or ``reason`` is a number, which means a delay.
    """

    __module__ = "qbridge_core"

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        if isinstance(reason, int | float):
            raise ConfigurationError(
                f"reason must be text, not {reason!r}; the seconds until the next attempt are Retry(after=…)"
            )
        super().__init__(reason)
        self.after = None if after is None else require_seconds("after", after)


class Reject(TaskControl):
    """The task can never succeed: dead-letter it now, with reason ``rejected``.

    Args:
        reason: goes into logs and the dead letter.
    """

    __module__ = "qbridge_core"

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)


class Snooze(TaskControl):
    """Not now: deliver the task again after a while, with no attempt counted.

    Args:
        seconds: how long the broker holds the message.
        reason: goes into the log.

    Raises:
        ConfigurationError: ``seconds`` is negative or not a number.
    """

    __module__ = "qbridge_core"

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason)
        self.seconds = require_seconds("seconds", seconds)
