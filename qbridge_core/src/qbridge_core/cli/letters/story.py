"""What became of a letter before it was one, in sentences: why it ran more than once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qbridge_core.cli.letters.times import duration, shown
from qbridge_core.contract.dead_letter import DeadLetter, Reason
from qbridge_core.contract.history import Attempt, AttemptOutcome

_WHY: Final = {
    Reason.FAILED: "its last run failed",
    Reason.TIMED_OUT: "its last run took too long",
    Reason.CRASHED: "it was charged with the death of its worker processes",
    Reason.MALFORMED: "it is no task: no handler has seen it",
    Reason.UNKNOWN_TASK: "no worker knew such a task: no handler has seen it",
    Reason.UNSUPPORTED: "it asks for what there is not here: no handler has seen it",
    Reason.EXPIRED: "its time was over before a worker could begin it",
    Reason.REJECTED: "it was rejected: by its handler, by another program, or by the broker",
}
_ENDS: Final = {
    AttemptOutcome.FAILED: ("failed", "a run that fails is retried"),
    AttemptOutcome.TIMED_OUT: ("timed out", "a run that times out is retried"),
    AttemptOutcome.CRASHED: ("ended with the death of its worker process", "its message came back to the next worker"),
    AttemptOutcome.REJECTED: ("was rejected by its handler", "it came back all the same"),
    AttemptOutcome.SNOOZED: ("ended", "its time had come"),
}


def story_of(letter: DeadLetter) -> list[str]:
    """Sentences in the order of what happened."""
    return [*_beginning(letter), *(_runs(letter) if letter.history else _counts(letter)), _end(letter)]


def _beginning(letter: DeadLetter) -> Iterator[str]:
    if letter.sent_at is not None:
        where = f" to queue {letter.source_queue}" if letter.source_queue else ""
        yield f"It was sent at {shown(letter.sent_at.timestamp())} UTC{where}."


def _runs(letter: DeadLetter) -> Iterator[str]:
    """A sentence for each run that is remembered, with what led to the next one."""
    yield from _forgotten(letter)
    for attempt, following in zip(letter.history, (*letter.history[1:], None), strict=True):
        then = letter.replays if following is None else following.replays
        yield _run(attempt, again=following is not None and then == attempt.replays)
        if then > attempt.replays:
            yield f"So it was a letter, and was sent back ({_times(then)} by then); its count of runs began anew."


def _forgotten(letter: DeadLetter) -> Iterator[str]:
    counted = letter.attempts + letter.crashes
    runs = [each for each in letter.history if each.outcome is not AttemptOutcome.SNOOZED]
    known = sum(each.replays == letter.replays for each in runs)
    if counted > known:
        yield f"It ran {_times(counted)} since it was sent, or sent back last; {known} of these runs are remembered."
    if before := letter.history[0].replays:
        yield f"Before what is remembered it had been sent back from the dead letters {_times(before)}."


def _run(attempt: Attempt, *, again: bool) -> str:
    when = "" if attempt.began_at is None else f" at {shown(attempt.began_at.timestamp())}"
    where = f" on {attempt.worker}" if attempt.worker else ""
    ended, why = _ENDS[attempt.outcome]
    after = "" if attempt.duration is None else f" after {duration(attempt.duration)}"
    if attempt.outcome is AttemptOutcome.SNOOZED:
        after += ": it postponed itself, which counts no attempt"
    place = f" in {attempt.place}" if attempt.place else ""
    raised = f" ({attempt.exception_type}{place})" if attempt.exception_type else ""
    because = f". It ran again, since {why}" if again else ""
    return f"The run{when}{where} {ended}{after}{raised}{because}."


def _counts(letter: DeadLetter) -> Iterator[str]:
    """What can be said where no runs are remembered."""
    failed, died = letter.attempts, letter.crashes
    if letter.replays:
        yield f"It had been sent back from the dead letters {_times(letter.replays)}."
        yield "Its count of runs began anew then."
    if failed + died:
        yield f"It ran {_times(failed + died)}."
    if failed + died > 1 and failed:
        yield f"A run that fails is retried as often as the task manager allows: it failed {_times(failed)}."
    if died:
        yield f"A message whose worker process dies comes back to the next worker: that happened {_times(died)}."
    if letter.first_failed_at is not None and letter.first_failed_at != letter.last_failed_at:
        yield f"It failed first at {shown(letter.first_failed_at)} UTC."


def _end(letter: DeadLetter) -> str:
    at = f" since {shown(letter.last_failed_at)} UTC" if letter.last_failed_at is not None else ""
    where = f", in queue {letter.source_queue}" if letter.source_queue else ""
    who = f", on {letter.worker}" if letter.worker else ""
    return f"It is a letter{at} because {_WHY[letter.reason]}{where}{who}."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
