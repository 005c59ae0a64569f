"""What a server says of itself that may cost messages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import Check, Finding, monotonic
from qbridge_redis.connection.options import Options
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.server.requirements import OLDEST, QUESTIONS, Facts, facts_of

_CLOSE_TO_FULL: Final = 0.9
_APART: Final = 5.0  # seconds
_KEPT: Final = "CONFIG SET {0} {1} && CONFIG REWRITE"


class ServerCheckup:
    """The checks of one server, which is asked once.

    Args:
        ask: the replies to commands that change nothing.
        options: how the client connects.
        where: its address.
    """

    def __init__(self, ask: Callable[[Sequence[Command]], list[Any]], options: Options, where: str) -> None:
        self._ask = ask
        self._options = options
        self._where = where
        self._known: Facts | None = None

    def server(self, check: Check) -> Iterator[Finding]:
        """Its version, and whether it is the master."""
        facts = self._facts()
        if not facts:
            yield self._unknown(check, "info", "its version")
            return
        valkey, redis = facts.get("valkey_version"), facts.get("redis_version", "")
        said = f"{f'Valkey {valkey}' if valkey else f'Redis {redis}'} answers at {self._where}"
        if redis and int(redis.partition(".")[0]) < OLDEST:
            yield check.problem(f"{said}; QBridge needs Redis 7.0 or later, or Valkey", "upgrade the server")
        elif facts.get("role") == "slave":
            yield check.problem(
                f"{said}, and is a replica, which takes no writes", "write its master's address, or redis+sentinel://"
            )
        else:
            yield check.ok(said)

    def memory(self, check: Check) -> Iterator[Finding]:
        """What becomes of queues when the memory is full."""
        facts = self._facts()
        policy = facts.get("maxmemory_policy")
        if policy is None:
            yield self._unknown(check, "info", "what it does when its memory is full")
            return
        if policy.startswith("allkeys-"):
            yield check.problem(
                f"maxmemory-policy is {policy}: whole queues are deleted when memory runs short",
                _KEPT.format("maxmemory-policy", "noeviction"),
            )
            return
        used, most = int(facts.get("used_memory", 0)), int(facts.get("maxmemory", 0))
        if most and used > most * _CLOSE_TO_FULL:
            yield check.warning(
                f"{used / most:.0%} of the memory is used (maxmemory {most:,} bytes): publishing stops when it is full",
                _KEPT.format("maxmemory", most * 2),
            )
            return
        yield check.ok(f"maxmemory-policy is {policy}, which deletes no queue")

    def persistence(self, check: Check) -> Iterator[Finding]:
        """What is left of confirmed messages after a crash."""
        facts = self._facts()
        if "aof_enabled" not in facts:
            yield self._unknown(check, "info", "what it writes to its disk")
            return
        if failed := [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if _failed(facts, name)]:
            yield check.problem(
                f"the last write to the disk failed ({', '.join(failed)}): the server refuses new messages until one "
                "succeeds",
                "free room on the server's disk; its log says what failed",
            )
        elif facts["aof_enabled"] == "0":
            yield check.warning(
                "appendonly is no: messages that were confirmed are lost when the server crashes",
                _KEPT.format("appendonly", "yes"),
            )
        elif facts.get("appendfsync") == "no":
            yield check.warning(
                "appendfsync is no: a crash of the machine costs half a minute of confirmed messages",
                _KEPT.format("appendfsync", "everysec"),
            )
        else:
            when = facts.get("appendfsync")
            yield check.ok(f"appendonly is yes{f', appendfsync {when}' if when else ''}")

    def replicas(self, check: Check) -> Iterator[Finding]:
        """Whether there are as many replicas as ``publish`` waits for."""
        wanted = self._options.wait_replicas
        there = self._facts().get("connected_slaves")
        if there is None:
            yield self._unknown(check, "info", "how many replicas it has")
        elif int(there) < wanted:
            yield check.problem(
                f"the server has {there} replicas, and publishing waits for {wanted}: each publish ends with "
                "PublishUnconfirmedError",
                f"add replicas, or connect with wait_replicas={there}",
            )
        else:
            yield check.ok(f"the server has {there} replicas, and publishing waits for {wanted}")

    def coverage(self, check: Check) -> Iterator[Finding]:
        """What becomes of the queues of other masters while a hash slot has none."""
        setting = "cluster-require-full-coverage"
        covers = self._facts().get(setting)
        if covers is None:
            yield self._unknown(check, "config", "what it does when another master is away")
        elif covers == "yes":
            yield check.warning(
                f"{setting} is yes: while one master is away, and no replica has taken over, the queues of all others "
                "are unavailable, too",
                _KEPT.format(setting, "no"),
            )
        else:
            yield check.ok(f"{setting} is {covers}: a master that is away stops its own queues and no others")

    def clock(self, check: Check) -> Iterator[Finding]:
        """Delays follow the server's clock, and what logs and letters say follows this machine's."""
        began = monotonic()
        (reply,) = self._ask([("TIME",)])
        here, took = time.time(), monotonic() - began
        if isinstance(reply, ResponseError):
            yield self._unknown(check, "time", "its clock")
            return
        apart = int(reply[0]) + int(reply[1]) / 1e6 - (here - took / 2)
        if abs(apart) > _APART + took:
            yield check.warning(
                f"the server's clock is {abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} this machine's: "
                "when it is set right at once, delayed messages come early or late by that",
                "let both clocks follow NTP, slewed and not stepped (timedatectl set-ntp true)",
            )
            return
        yield check.ok("the clocks of the server and of this machine agree")

    def _facts(self) -> Facts:
        if self._known is None:
            self._known = facts_of(self._ask(QUESTIONS))
        return self._known

    def _unknown(self, check: Check, command: str, what: str) -> Finding:
        user = self._options.username or "default"
        return check.not_checked(
            f"the user {user!r} may not ask {self._where} for {what}", f"ACL SETUSER {user} +{command}"
        )


def _failed(facts: Facts, name: str) -> bool:
    return facts.get(name, "ok") != "ok"
