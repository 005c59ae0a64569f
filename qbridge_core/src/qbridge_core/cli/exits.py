"""What the exit code of the command says."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from qbridge_core.errors import (
    AuthenticationError,
    ConfigurationError,
    NotConnectedError,
    QBridgeError,
    TransientError,
    WorkerStartError,
)
from qbridge_core.runtime.logtexts import escaped

DONE: Final = 0
FAILED: Final = 1
"""It failed, or what was looked for was found: see the command."""
USAGE: Final = 2
BROKER: Final = 3
"""The broker could not be reached, refused the credentials, or takes nothing now."""


_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class Failed(click.ClickException):
    """Ends the command with exit code 1; the text goes to standard error."""

    exit_code = FAILED


class WrongUsage(Failed):
    """Ends the command with exit code 2."""

    exit_code = USAGE


class BrokerTrouble(Failed):
    """Ends the command with exit code 3."""

    exit_code = BROKER


def failure_of(exc: QBridgeError) -> type[Failed]:
    """How the command ends after what QBridge raised."""
    if isinstance(exc, WorkerStartError) and isinstance(exc.__cause__, QBridgeError):
        return failure_of(exc.__cause__)
    if isinstance(exc, ConfigurationError):
        return WrongUsage
    if isinstance(exc, TransientError | AuthenticationError | NotConnectedError):
        return BrokerTrouble
    return Failed


@contextmanager
def as_failures() -> Iterator[None]:
    """Tell of what QBridge raises in one line, with its notes, and no traceback; so of output that nobody takes."""
    try:
        yield
    except QBridgeError as exc:
        lines = [str(exc), *getattr(exc, "__notes__", [])]
        raise failure_of(exc)("\n".join(map(escaped, lines))) from exc
    except OSError as exc:
        if exc.errno not in _FULL or exc.filename is not None:
            raise
        raise Failed(f"the output cannot be written: {exc.strerror}") from exc
