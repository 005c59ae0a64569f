"""What a plugin that counts hears of the end of a run."""

from __future__ import annotations

from typing import NamedTuple

from qbridge_core.contract.dead_letter import Reason


class Settlement(NamedTuple):
    """How one delivery ended, once its broker had agreed.

    Attributes:
        task_id: the task's id; "" for a message that is no task.
        attempt: 1 for the first run.
        outcome: ``succeeded``, ``retried``, ``dead-lettered`` or ``snoozed``.
        reason: why it was retried or dead-lettered; None otherwise.
        wait: seconds from when it was sent, came due or was put back, to the start of its run; None where nobody knows
            or nothing ran. Clocks of two machines may differ: what would be less is 0.0.
        duration: seconds that the run took; None where nothing ran.
        settling: seconds that the settlement took. A broker may learn of an acknowledgement later, with others.
        times: for how many deliveries it stands, itself included. More than 1 only in ``qbridge_settlements``, where so
            many quick tasks succeed that not each one is measured: count by it.
    """

    task_id: str
    attempt: int
    outcome: str
    reason: Reason | None
    wait: float | None
    duration: float | None
    settling: float
    times: int = 1
