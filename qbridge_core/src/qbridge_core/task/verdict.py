"""What a handler's exception asks for, as plain data: the process that saw it need not be the one that acts on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Final, Self, cast

from qbridge_core.contract.checks import require_seconds
from qbridge_core.contract.dead_letter import Reason
from qbridge_core.runtime.logs import logger
from qbridge_core.task.control import Reject, Retry, Snooze
from qbridge_core.task.explanation import Explanation, Owns
from qbridge_core.task.terms import Policy

_log: Final = logger("qbridge.worker")
# The attribute itself: a subclass may have put a property in front of it.
_CAUSE: Final[Any] = vars(BaseException)["__cause__"].__get__


class Action(StrEnum):
    """What should become of the task."""

    COUNT = "count"
    REJECT = "reject"
    POSTPONE = "postpone"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a run that did not succeed.

    Attributes:
        action: count a failed attempt, dead-letter, deliver later uncounted, or count a crash.
        explanation: what went wrong, in texts.
        delay: seconds that the handler asked for.
        rule: the position of the policy's rule for the exception.
        final: True for an exception that is never retried.
    """

    action: Action
    explanation: Explanation
    delay: float | None = None
    rule: int | None = None
    final: bool = False

    def as_json(self) -> dict[str, Any]:
        """The verdict in types that JSON has."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Read what ``as_json`` wrote."""
        explanation = Explanation(**{**document["explanation"], "reason": Reason(document["explanation"]["reason"])})
        return cls(**{**document, "action": Action(document["action"]), "explanation": explanation})


class Judged(Exception):
    """A run ended in another process, which has judged it."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.explanation.message)
        self.verdict = verdict


def name_of(kind: type) -> str:
    """The name of a class, where its metaclass might run code of its own."""
    name: str = type.__dict__["__name__"].__get__(kind)
    return name


def judge(exc: BaseException, policy: Policy, owns: Owns | None = None) -> Verdict:
    """What this exception of a handler asks for; what asks for nothing sensible is a plain failure. Never raises.

    Args:
        exc: what the handler raised.
        policy: has rules for exceptions.
        owns: tells the handler's own code, to name the place.
    """
    try:
        return _judge(exc, policy, owns)
    except BaseException as error:  # noqa: BLE001 - every access may run foreign code, and the failure must be counted
        _log.warning(
            "what the handler raised cannot be followed and counts as a failure: reading its %s raised %s",
            name_of(type(exc)), type(error).__name__,
        )  # fmt: skip
        return Verdict(Action.COUNT, Explanation.from_exception(Reason.FAILED, exc, owns))


def _judge(exc: BaseException, policy: Policy, owns: Owns | None) -> Verdict:
    kind = type(exc)  # isinstance would ask a property of the exception
    if issubclass(kind, Snooze):
        explanation = Explanation.from_exception(Reason.FAILED, exc, owns)
        return Verdict(Action.POSTPONE, explanation, require_seconds("seconds", cast(Snooze, exc).seconds))
    if issubclass(kind, Reject):
        return Verdict(Action.REJECT, Explanation.from_exception(Reason.REJECTED, exc, owns))
    if issubclass(kind, Retry):
        cause: BaseException | None = _CAUSE(exc, kind)
        recorded = exc if cause is None else cause
        after = cast(Retry, exc).after
        delay = None if after is None else require_seconds("after", after)
        return Verdict(
            Action.COUNT, Explanation.from_exception(Reason.FAILED, recorded, owns), delay, policy.rule_for(recorded)
        )
    explanation = Explanation.from_exception(Reason.FAILED, exc, owns)
    return Verdict(Action.COUNT, explanation, rule=policy.rule_for(exc), final=policy.is_final(exc))
