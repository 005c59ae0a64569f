"""A forked child shares no connection: it closes its copies of the sockets, and what it would write goes nowhere.

Without that a child that stays would keep the server believing that its parent still listens.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import Any, Final

_open: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def watch(connection: Any) -> None:
    """Close the child's copy of the connection's socket (``_sock``) after each fork from now on."""
    _open.add(connection)


def _close_copies() -> None:
    for connection in list(_open):
        with contextlib.suppress(Exception):
            connection._sock.close()  # not shutdown, which would end the parent's connection too
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
