"""Looks which queues are paused, once for all managers of a client.

The thread of the :mod:`~qbridge_core.work.poison.lookout` makes the look, since it asks the broker things anyway. What
follows from it is done in other threads: the broker may be slow to take messages back.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Final, Protocol

from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import NotConnectedError, QBridgeError, TransientError
from qbridge_core.runtime.aside import aside
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logs import logger
from qbridge_core.runtime.outage import Outage
from qbridge_core.work.poison.lookout import lookout_of

_log: Final = logger("qbridge.worker")
LOOK_EVERY: Final = 2.0
"""Seconds. With what it takes to end a request at the broker, and to give back what came, this stays below 5 s."""
_HELPERS: Final = 8


class Follower(Protocol):
    """Who rests while its queue is paused."""

    queue: str

    def tell(self, paused: bool) -> bool:
        """Note whether it is paused; True when ``follow`` is to be called. Never waits."""
        ...

    def follow(self) -> None:
        """Rest, or go on."""
        ...


class Pauses:
    """Those that follow the pauses of one client's queues. Thread-safe.

    Args:
        client: asks the broker.

    Attributes:
        heard_at: ``monotonic()`` of its last answer.
        side_queue: none, since these are looked for in any case.
    """

    def __init__(self, client: QueueClient) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._followers: dict[Follower, None] = {}
        self._outage = Outage()
        self.heard_at = monotonic()
        self.side_queue = None

    def look_in(self, seekers: int) -> float:
        """Seconds until the next look, which is one for all queues."""
        del seekers
        return LOOK_EVERY

    def seek(self) -> None:
        """Look, and tell those for whom something has changed."""
        with self._lock:
            followers = list(self._followers)
        if not followers or (paused := self.look({each.queue for each in followers})) is None:
            return
        changed = [each for each in followers if each.tell(each.queue in paused)]
        for start in range(min(_HELPERS, len(changed))):
            aside("qbridge-pauses", functools.partial(_follow, changed[start::_HELPERS]))

    def look(self, queues: set[str]) -> set[str] | None:
        """Those that are paused; ``None`` when nobody can tell now. Who may not know goes on as if there were none."""
        try:
            paused = set(self._client.paused(sorted(queues)))
        except TransientError as exc:
            _log.debug("cannot look which queues are paused: %s", exc)
            return None
        except NotConnectedError:  # those that receive find out by themselves
            return set()
        except QBridgeError as exc:
            self.heard_at = monotonic()  # a refusal is an answer
            if self._outage.is_news(exc):
                _log.warning("cannot look which queues are paused, so none is: %s", exc)
            return set()
        self.heard_at = monotonic()
        return paused

    def add(self, follower: Follower) -> None:
        """Tell it from now on."""
        with self._lock:
            is_first = not self._followers
            self._followers[follower] = None
        if is_first:
            lookout_of(self._client).add(self)

    def remove(self, follower: Follower) -> bool:
        """Tell it nothing more; True when there is nobody left."""
        with self._lock:
            self._followers.pop(follower, None)
            is_last = not self._followers
        if is_last:
            lookout_of(self._client).remove(self)
        return is_last


def _follow(followers: Sequence[Follower]) -> None:
    for follower in followers:
        try:
            follower.follow()
        except BaseException:  # noqa: BLE001 - a backend's bug must not keep the others from it
            _log.exception("%s cannot follow a pause, or its end; it is tried again in some seconds", follower.queue)


_pauses: weakref.WeakKeyDictionary[QueueClient, Pauses] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def begin(client: QueueClient, follower: Follower) -> None:
    """Look whether its queue is paused, and tell it from now on. Where nobody can tell now, it is not."""
    with _lock:
        pauses = _pauses.get(client) or Pauses(client)
    follower.tell(follower.queue in (pauses.look({follower.queue}) or ()))
    try:
        with _lock:
            _pauses.setdefault(client, pauses).add(follower)
    except RuntimeError as exc:  # the system has no thread left
        end(client, follower)
        _log.warning("nobody looks whether queues are paused: %s", exc)


def end(client: QueueClient, follower: Follower) -> None:
    """Tell it nothing more."""
    with _lock:
        pauses = _pauses.get(client)
        if pauses is not None and pauses.remove(follower):
            del _pauses[client]  # it holds the client, which nobody else may hold any more


def heard_at(client: QueueClient) -> float | None:
    """``monotonic()`` of the last answer of the broker; None where nobody asks. Waits for nobody."""
    pauses = _pauses.get(client)
    return None if pauses is None else pauses.heard_at


def _begin_anew() -> None:
    """In a forked child: there are no threads, and the lock may be held by one that does not exist here."""
    global _pauses, _lock
    _pauses, _lock = weakref.WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
