"""Policies that take messages out of queues: nothing in AMQP tells of them, but the management API does.

A policy is given to all queues whose names its pattern matches, those for delays, suspects and dead letters among them
(rabbitmq.com/docs/parameters). What it does there nobody is told of.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from qbridge_core.backend import logger, monotonic, suspects_queue
from qbridge_rabbitmq.connection.options import Endpoint
from qbridge_rabbitmq.queues import delays
from qbridge_rabbitmq.queues.management import Management, ManagementError

_log: Final = logger("qbridge.rabbitmq")
CHECK_EVERY: Final = 600.0
# A message also comes back when only a connection was lost.
_FEW_RETURNS: Final = 20
_HARM: Final[Mapping[str, str]] = {
    "message-ttl": "what waits longer, in ms, is taken out of it",
    "expires": "unused for so many ms it is deleted with all that is in it",
    "max-length": "over so many messages the oldest are dropped, or what should go into it is refused",
    "max-length-bytes": "over so many bytes the oldest are dropped, or what should go into it is refused",
    "delivery-limit": "a message that comes back more often is taken out of it, even if it does no harm",
    "dead-letter-exchange": "what leaves it goes there",
}
_ROLES: Final[Mapping[str, str]] = {
    "work": "tasks are lost",
    "delays": "retries and delayed tasks are lost, or run too early",
    "suspects": "tasks that were held by a worker that died are lost",
    "dead letters": "dead letters are lost",
}
_DEAD: Final = ("crashed", "down", "minority", "stopped", "terminated")
_COMMANDS: Final = {"policy": "clear_policy", "operator policy": "clear_operator_policy"}


class Policies:
    """Looks after the policies of the queues of one client, and warns of those that do harm. Thread-safe.

    Args:
        api: where they are read.
        vhost: the virtual host, for the commands that mend them.
    """

    def __init__(self, api: Management, vhost: str) -> None:
        self._api = api
        self._vhost = vhost
        self._roles: dict[str, str] = {}
        self._said: set[str] = set()
        self._complaint = ""
        self._lock = threading.Lock()
        self._running = False
        self._again = False
        self._due = 0.0

    @classmethod
    def of(cls, endpoint: Endpoint) -> Policies | None:
        """Those of a broker whose management API is known."""
        api = Management.of(endpoint)
        return None if api is None else cls(api, endpoint.vhost)

    def watch(self, queue: str, dead_letter_queue: str) -> None:
        """A queue is used: look at the policies now, and again now and then."""
        with self._lock:
            self._roles |= dict(_all_names(queue, dead_letter_queue))
        self.check()

    def check_if_due(self) -> None:
        """Call it every few seconds."""
        if self._roles and monotonic() >= self._due:
            self.check()

    def check(self) -> None:
        """Look at them soon, in a thread of its own: nobody has to wait for another server."""
        with self._lock:
            self._due = monotonic() + CHECK_EVERY
            self._again = True
            if self._running or not self._roles:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="qbridge-policies", daemon=True).start()
        except RuntimeError:  # the system has no thread left
            self._running = False

    def _run(self) -> None:
        while self._wanted():
            try:
                self._look()
                self._complaint = ""
            except ManagementError as exc:
                self._complain(str(exc))
            except Exception as exc:  # noqa: BLE001 - it is a service, and must hurt nobody
                self._complain(repr(exc))

    def _wanted(self) -> bool:
        with self._lock:
            self._running, self._again = self._again, False
            return self._running

    def _complain(self, why: str) -> None:
        if why != self._complaint:
            self._complaint = why
            _log.warning("the policies of RabbitMQ cannot be read at %s: %s; they are not checked", self._api, why)

    def _look(self) -> None:
        for said, command in self._harmful(self._names()):
            if said not in self._said:
                self._said.add(said)
                _log.warning("%s. Give it a pattern that leaves this queue out, or delete it: %s", said, command)

    def harmful(self, queue: str, dead_letter_queue: str) -> list[tuple[str, str]]:
        """Those that take messages out of a queue or of what belongs to it, each with the command that deletes it.

        It blocks for some seconds at most.

        Raises:
            ManagementError: they cannot be read.
        """
        return list(self._harmful(dict(_all_names(queue, dead_letter_queue))))

    def _harmful(self, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        found = [*_findings("policy", self._api.policies(), names)]
        found += _findings("operator policy", self._api.operator_policies(), names)
        for kind, policy, queue, role, harm in found:
            name, pattern = policy["name"], policy["pattern"]
            said = f"{kind} {name!r} (pattern {pattern!r}) matches queue {queue!r}: {harm}; so {_ROLES[role]}"
            yield said, f"rabbitmqctl {_COMMANDS[kind]} -p {self._vhost} {name}"

    def dead_queues(self, queue: str, dead_letter_queue: str) -> list[str]:
        """Which of a queue and of those that belong to it do not run. It blocks for some seconds at most.

        Raises:
            ManagementError: that cannot be read.
        """
        dead = {row.get("name") for row in self._api.queue_states() if _is_dead(row)}
        return [name for name, _ in _all_names(queue, dead_letter_queue) if name in dead]

    def _names(self) -> dict[str, str]:
        with self._lock:
            return dict(self._roles)


def _is_dead(row: Mapping[str, Any]) -> bool:
    """A quorum queue without a leader is one, too; RabbitMQ says that it runs."""
    return row.get("state") in _DEAD or (row.get("type") == "quorum" and not row.get("leader"))


def _all_names(queue: str, dead_letter_queue: str) -> Iterator[tuple[str, str]]:
    """The queue and all that belong to it, each with what it is for."""
    yield queue, "work"
    yield dead_letter_queue, "dead letters"
    yield suspects_queue(queue), "suspects"
    for level in range(delays.LEVELS):
        yield delays.name(queue, level), "delays"


def _findings(
    kind: str, policies: Iterable[Mapping[str, Any]], names: Mapping[str, str]
) -> Iterator[tuple[str, Mapping[str, Any], str, str, str]]:
    """What does harm: the kind, the policy, one queue of each role that it matches, the role, and the harm."""
    reported: set[tuple[str, str]] = set()
    ranked = sorted(policies, key=lambda policy: -policy.get("priority", 0))
    for queue, role in names.items():
        # Of those that match a queue, the one with the highest priority counts.
        policy = next((policy for policy in ranked if _matches(policy, queue)), None)
        if policy is None:
            continue
        work = queue if role == "work" else ""
        harm = "; ".join(_harms(policy.get("definition") or {}, role))
        if harm and (policy["name"], role + work) not in reported:
            reported.add((policy["name"], role + work))
            yield kind, policy, queue, role, harm


def _matches(policy: Mapping[str, Any], queue: str) -> bool:
    if policy.get("apply-to", "all") in {"exchanges", "streams"}:
        return False
    try:
        return re.search(policy["pattern"], queue) is not None
    except re.error:
        return False  # Erlang's expressions have some things that Python's have not


def _harms(definition: Mapping[str, Any], role: str) -> Iterator[str]:
    for key, value in definition.items():
        if key not in _HARM or (key == "dead-letter-exchange" and role != "dead letters"):
            continue  # QBridge's own argument of the queue has precedence
        if key == "delivery-limit" and not (isinstance(value, int) and 0 <= value < _FEW_RETURNS):
            continue
        yield f"{key}={value}: {_HARM[key]}"
