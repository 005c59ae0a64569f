"""Commands that move or delete ask before, and log who it was."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import click

from qbridge_core.runtime.logtexts import escaped

_audit: Final = logging.getLogger("qbridge.audit")


def yes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--yes``, for ``ask``."""
    return click.option("--yes", "-y", is_flag=True, help="Do not ask; needed where there is no terminal.")(command)


def ask(question: str, yes: bool) -> None:
    """Ask on a terminal; go on where the answer is yes, or was given before.

    Raises:
        click.Abort: the answer is no.
        click.UsageError: there is no terminal to ask on.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: add --yes")
    click.confirm(question, abort=True, err=True)


def log_deed(what: str) -> None:
    """Tell the log ``qbridge.audit``, which is standard error unless something else is set up, who did what."""
    if not _audit.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(message)s"))
        _audit.addHandler(handler)
        _audit.setLevel(logging.INFO)
    _audit.info("%s, by %s", escaped(what), _who())


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"user {os.getuid()}" if hasattr(os, "getuid") else "somebody"
    behind = os.environ.get("SUDO_USER")
    return escaped(f"{user}{f' ({behind})' if behind and behind != user else ''} on {socket.gethostname()}")
