"""What can be wrong without the broker, or with any: the time to stop, the handler, tasks that wait to run apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from qbridge_core.cli.checkup.target import Target
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.findings import Check, Finding, Look, QueueUse
from qbridge_core.contract.names import suspects_queue
from qbridge_core.work.manager import DEFAULT_GRACE_PERIOD
from qbridge_core.work.poison.importing import can_be_isolated, setup_of

_NOT_TOP_LEVEL: Final = "it, or its lifespan, is no function at the top level of a module that can be imported"
_AFTER: Final = 3.0
"""Seconds that a stop takes at most after the grace period, with ``disconnect``."""


def own_looks(
    target: Target | None, termination_grace: float | None, client: QueueClient | None, uses: list[QueueUse]
) -> Iterator[tuple[Check, Look]]:
    """The checks that no backend makes."""
    yield Check("handler"), partial(handler, target)
    yield Check("grace period"), partial(grace_period, target, termination_grace)
    if client is not None and client.capabilities.crashes:
        for use in uses:
            yield Check("suspects", use.queue), partial(suspects, client)


def grace_period(target: Target | None, granted: float | None, check: Check) -> Iterator[Finding]:
    """Whether Kubernetes or systemd waits for as long as a worker may take to stop."""
    grace = DEFAULT_GRACE_PERIOD if target is None else target.grace_period
    needed = grace + _AFTER
    said = f"a worker stops within grace_period + {_AFTER:g} s = {needed:g} s"
    if granted is None:
        yield check.not_checked(
            f"{said}, and nobody says how long it is waited for",
            "qbridge doctor --termination-grace SECONDS (Kubernetes: terminationGracePeriodSeconds, 30 unless set; "
            "systemd: TimeoutStopSec, 90 unless set)",
        )
    elif granted < needed:
        yield check.problem(
            f"{said}, and is killed after {granted:g} s: what it holds then is run again, as after a crash",
            f"terminationGracePeriodSeconds: {needed:.0f} (Kubernetes), TimeoutStopSec={needed:.0f} (systemd), or "
            f"TaskManager(grace_period={max(0.0, granted - _AFTER):g})",
        )
    else:
        yield check.ok(f"{said}, and is killed after {granted:g} s")


def handler(target: Target | None, check: Check) -> Iterator[Finding]:
    """Whether a child process can import the handler, for tasks that may have killed a worker."""
    if target is None:
        yield check.not_checked("no handler was named", "qbridge doctor --target module:name")
        return
    fine: list[str] = []
    for each in target.handlers:
        try:
            if not can_be_isolated(each, target.lifespan):
                raise ValueError(_NOT_TOP_LEVEL)
            setup_of(each, target.lifespan)
        except ValueError as exc:
            yield check.warning(
                f"a child process cannot run the handler {_name(each)}: {exc}. A task that may have killed its worker "
                "runs alone in the next one instead, and may kill that",
                "define the handler, and the lifespan, with def at the top level of a module",
            )
        else:
            fine.append(_name(each))
    if fine:
        yield check.ok(f"a child process can import the handler{'s' * (len(fine) > 1)} {', '.join(fine)}")


def suspects(client: QueueClient, check: Check) -> Iterator[Finding]:
    """Whether tasks that may have killed their worker wait for somebody to run them apart."""
    side = suspects_queue(check.queue)
    stats = client.count(side)
    waiting = stats.ready + stats.delayed
    if waiting:
        yield check.warning(
            f"{waiting:,} tasks that may have killed their worker wait in {side!r}, where a worker of "
            f"{check.queue!r} runs them apart; those that kill again become dead letters",
            "start a worker of the queue; when one runs, see its log for what kills it",
        )
    else:
        yield check.ok("no task waits that may have killed its worker")


def _name(handler: Callable[..., object]) -> str:
    kind = type(handler)
    module = getattr(handler, "__module__", None) or kind.__module__
    return f"{module}.{getattr(handler, '__qualname__', kind.__qualname__)}"
