"""The brokers of this process, by the names that URLs have for them."""

from __future__ import annotations

import os
import threading
from typing import Final

from qbridge_core.backend import SYSTEM_CLOCK, Clock, ConfigurationError
from qbridge_memory.broker import MemoryBroker

_brokers: Final[dict[str, MemoryBroker]] = {}
_brokers_lock = threading.Lock()


def _begin_anew() -> None:
    """In a forked process: what it has a copy of is the parent's, which runs those tasks."""
    global _brokers_lock
    _brokers_lock = threading.Lock()  # a thread that is not here may hold the other one
    _brokers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def reset(name: str | None = None) -> None:
    """Forget the broker of ``memory://name``, or all named ones; clients connected to it keep their old one."""
    with _brokers_lock:
        if name is None:
            _brokers.clear()
        else:
            _brokers.pop(name.lower(), None)  # URL hosts have no case


def broker_named(name: str, clock: object) -> MemoryBroker:
    """The broker of ``memory://name``, made when it is first asked for; without a name always another one.

    Raises:
        ConfigurationError: ``clock`` is none, or the broker that there is goes by another one.
    """
    if clock is not None and not isinstance(clock, Clock):
        raise ConfigurationError(f"clock must be a Clock (of qbridge_core.backend), not {type(clock).__name__}")
    if not name:
        return MemoryBroker(clock or SYSTEM_CLOCK)
    with _brokers_lock:
        if name not in _brokers:
            _brokers[name] = MemoryBroker(clock or SYSTEM_CLOCK)
        found = _brokers[name]
    if clock is not None and clock != found.clock:
        raise ConfigurationError(f"the broker of memory://{name} goes by another clock: call reset({name!r}) first")
    return found
