"""What nothing in AMQP tells, and the management API does: policies, and queues that have died."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Final

from qbridge_core.backend import Check, Finding, QueueUse
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.management import ManagementError
from qbridge_rabbitmq.queues.policies import Policies

# That of 4.0 goes on to show what it has seen last.
_TELLS_LEADERS: Final = (3, 10)
_ADD: Final = "add the option management_url=http://user:password@host:15672 to the URL; its user needs the tag {tag}"


def policies(known: Policies | None, use: QueueUse, check: Check) -> Iterator[Finding]:
    """Those that take messages out of a queue, or out of what belongs to it."""
    if known is None:
        yield check.not_checked("AMQP tells of no policies", _ADD.format(tag="policymaker"))
        return
    try:
        harmful = known.harmful(use.queue, use.letters)
    except ManagementError as exc:
        yield check.not_checked(f"the policies cannot be read: {exc}", _ADD.format(tag="policymaker"))
        return
    for said, command in harmful:
        yield check.problem(said, f"{command}, or give it a pattern that leaves this queue out")
    if not harmful:
        yield check.ok("no policy takes messages out of the queue, its delays, suspects or dead letters")


def dead_queues(
    known: Policies | None, endpoint: Endpoint, version: tuple[int, ...], use: QueueUse, check: Check
) -> Iterator[Finding]:
    """Queues that take messages and never answer: a crash of the broker leaves quorum queues so that were just made."""
    if known is None:
        yield check.not_checked("AMQP does not tell whether a queue has died", _ADD.format(tag="management"))
        return
    try:
        dead = known.dead_queues(use.queue, use.letters)
    except ManagementError as exc:
        yield check.not_checked(f"the states of queues cannot be read: {exc}", _ADD.format(tag="management"))
        return
    for name in dead:
        for_delays = name.startswith(delays.name(use.queue, 0).removesuffix("0"))
        means = "delays are left out, and tasks are retried at once" if for_delays else "nothing in it can be reached"
        delete = f"rabbitmqctl delete_queue -p {shlex.quote(endpoint.vhost)} {shlex.quote(name)}"
        yield check.problem(
            f"queue {name!r} does not run: {means}",
            f"bring all nodes of the cluster up; if it stays so, give it up with its messages: {delete}",
        )
    if not dead and version > _TELLS_LEADERS:
        yield check.not_checked(
            "the management API of this server may say of a quorum queue without a leader that it runs",
            f"rabbitmqctl list_queues -p {shlex.quote(endpoint.vhost)} name state leader",
        )
    elif not dead:
        yield check.ok("the queue and those for its delays, suspects and dead letters run")
