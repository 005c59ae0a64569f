"""Asks Redis Sentinel which server is the master.

Facts: https://redis.io/docs/latest/develop/reference/sentinel-clients/ (ask, connect, check ROLE; do it all again after
every lost connection) and the fields of SENTINEL MASTER in
https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/. The configuration epoch goes up with every
failover. redis-py's own class is not used: its errors show the passwords of its pools, and it trusts outdated answers.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import AuthenticationError, BrokerUnavailableError, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.options import Address, Options
from qbridge_redis.connection.route import OnMove, Route

_CLOSE_TIME: Final = 0.2
_WATCH_TIME: Final = 0.5  # the thread that asks has leases to renew


class SentinelRoute(Route):
    """The way to the master of a service, as the sentinels know it."""

    needs_master = True
    needs_watch = True

    def __init__(self, options: Options, on_move: OnMove) -> None:
        super().__init__(options)
        self._on_move = on_move
        own = replace(options, db=0, username=options.sentinel_username, password=options.sentinel_password)
        self._connections = deque(RedisConnection(Route(own, address), "qbridge:sentinel") for address in options.hosts)
        self._lock = threading.Lock()
        self._epoch = 0
        self._found = False

    def locate(self, timeout: float) -> tuple[Address, int]:
        """Ask one sentinel after the other, beginning with the one that answered last."""
        deadline = monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise BrokerUnavailableError(f"no sentinel of {self.options} has answered yet")
        try:
            return self._ask_all(deadline)
        finally:
            self._lock.release()

    def watch(self) -> bool:
        """See ``Route.watch``: an old master that is only cut off from the others still answers as if it were one."""
        try:
            self.locate(_WATCH_TIME)
        except QBridgeError:
            return False
        return True

    def close(self) -> None:
        """Close the connections to the sentinels."""
        for connection in self._connections:
            connection.abort()
        if not self._lock.acquire(timeout=_CLOSE_TIME):
            return  # somebody is about to connect; what was opened is closed with its last user
        try:
            for connection in self._connections:
                connection.close()
        finally:
            self._lock.release()

    def _ask_all(self, deadline: float) -> tuple[Address, int]:
        problems: list[Exception] = []
        for left in range(len(self._connections), 0, -1):
            try:
                return self._ask(self._connections[0], (deadline - monotonic()) / left)
            except (QBridgeError, *LOST) as exc:
                problems.append(exc)
            self._connections.rotate(-1)
        told = "; ".join(dict.fromkeys(map(str, problems)))
        for problem in problems:
            if isinstance(problem, AuthenticationError):
                raise AuthenticationError(f"no sentinel names the master of {self.options}: {told}") from problem
        raise BrokerUnavailableError(f"no sentinel names the master of {self.options}: {told}") from problems[-1]

    def _ask(self, connection: RedisConnection, timeout: float) -> tuple[Address, int]:
        if not connection.is_open:
            connection.open(timeout)
        service = self.options.service
        questions = [("SENTINEL", "GET-MASTER-ADDR-BY-NAME", service), ("SENTINEL", "MASTER", service)]
        address, facts = connection.call_many(questions, max(0.05, timeout))
        for reply in (address, facts):
            if isinstance(reply, ResponseError) and "No such master" not in str(reply):
                raise AuthenticationError(f"a sentinel answers {reply}")
        if not isinstance(address, list) or not isinstance(facts, list):
            raise BrokerUnavailableError(f"a sentinel knows no service {service!r}")
        epoch = _epoch(facts)
        if epoch < self._epoch:
            raise BrokerUnavailableError("a sentinel has not heard of the last failover yet")
        self._arrive((address[0].decode(), int(address[1])), epoch)
        return self._address, self.moves

    def _arrive(self, address: Address, epoch: int) -> None:
        self._epoch = epoch
        if self._found and address != self._address:
            self.moves += 1
            self._on_move()
        self._address, self._found = address, True


def _epoch(facts: list[Any]) -> int:
    pairs = dict(zip(facts[::2], facts[1::2], strict=False))
    return int(pairs.get(b"config-epoch", 0))
