"""A thread whose handler should have ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType

from qbridge_core.execute.interrupt.owncode import OwnCode


@dataclass(frozen=True, slots=True)
class Late:
    """A thread whose handler should have ended.

    Attributes:
        ident: the thread's identifier.
        own: the handler's code, the only one that an exception may be raised in.
        entry: the code that calls the handler.
        is_in_handler: False when the handler has ended after all.
    """

    ident: int
    own: OwnCode
    entry: CodeType
    is_in_handler: Callable[[], bool]
