"""The brokers of this process, by the names that URLs have for them."""

from __future__ import annotations

import os
import threading
from typing import Final

from qbridge_core.backend import SYSTEM_CLOCK, Clock, ConfigurationError
from qbridge_memory.broker import MemoryBroker


class _Named:
    """The brokers that have a name."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Know none, in a forked process too: what it has copies of is its parent's, which runs those tasks."""
        self.lock = threading.Lock()  # a thread that is not here may hold the other one
        self.brokers: dict[str, MemoryBroker] = {}


_named: Final = _Named()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_named.begin_anew)


def reset(name: str | None = None) -> None:
    """Forget the broker of ``memory://name``, or all named ones; clients connected to it keep their old one."""
    with _named.lock:
        if name is None:
            _named.brokers.clear()
        else:
            _named.brokers.pop(name.lower(), None)  # URL hosts have no case


def broker_named(name: str, clock: object) -> MemoryBroker:
    """The broker of ``memory://name``, made when it is first asked for; without a name always another one.

    Raises:
        ConfigurationError: ``clock`` is none, or the broker that there is goes by another one.
    """
    if clock is not None and not isinstance(clock, Clock):
        raise ConfigurationError(f"clock must be a Clock (of qbridge_core.backend), not {type(clock).__name__}")
    if not name:
        return MemoryBroker(clock or SYSTEM_CLOCK)
    with _named.lock:
        if name not in _named.brokers:
            _named.brokers[name] = MemoryBroker(clock or SYSTEM_CLOCK)
        found = _named.brokers[name]
    if clock is not None and clock != found.clock:
        raise ConfigurationError(f"the broker of memory://{name} goes by another clock: call reset({name!r}) first")
    return found
