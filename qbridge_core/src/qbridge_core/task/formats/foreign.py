"""What the formats of Celery and Dramatiq have in common: a call with arguments, and attempts that others counted."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.contract.envelope import MalformedTaskError, json_type
from qbridge_core.contract.headers import ATTEMPTS, MAX_COUNT, REPLAYS
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import PayloadError
from qbridge_core.runtime.logs import logger
from qbridge_core.task.formats.base import Format

_log: Final = logger("qbridge.worker")

_Call = tuple[list[Any], dict[str, Any]]


class ForeignFormat(Format):
    """A format of another library, which has results. Thread-safe: at worst it says twice what it says once."""

    def __init__(self) -> None:
        self._has_told = False

    def __getstate__(self) -> dict[str, Any]:
        """A child process reads again what its worker has read, and has nothing to tell."""
        return {**vars(self), "_has_told": True}

    def _tell_of_results(self, delivery: Delivery, task: str, why: str) -> None:
        if not self._has_told:
            self._has_told = True
            _log.warning(
                "%s in %r, a task of %s, wants its result stored%s: no results are written here; this is said once",
                task, delivery.queue, self.name, why,
            )  # fmt: skip


def text_of(what: str, value: object, task_id: str | None = None) -> str:
    """A name or an id.

    Raises:
        MalformedTaskError: it is something else; the text begins with ``what``.
    """
    if isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS:
        return value
    raise MalformedTaskError(f"{what} is no string of 1 to {MAX_ID_CHARS} characters", task_id)


def call_of(args: object, kwargs: object, task_id: str) -> _Call:
    """Positional and keyword arguments, either of which may be missing.

    Raises:
        MalformedTaskError: they are something else.
    """
    if args is None:
        args = []
    if kwargs is None:
        kwargs = {}
    if not isinstance(args, list):
        raise MalformedTaskError(f'"args" is a JSON {json_type(args)}, not an array', task_id)
    if not isinstance(kwargs, dict):
        raise MalformedTaskError(f'"kwargs" is a JSON {json_type(kwargs)}, not an object', task_id)
    return args, kwargs


def call_for(payload: object) -> _Call:
    """The call that a payload stands for: its keys are parameters. One that is no object is the only argument."""
    return ([], payload) if isinstance(payload, dict) else ([payload], {})


def name_for(name: str | None, format_name: str) -> str:
    """The name of the task.

    Raises:
        PayloadError: it has none.
    """
    if name is None:
        raise PayloadError(
            f"a message of the format {format_name!r} names its task, as those of an App do; a payload alone cannot be "
            "written in it"
        )
    return name


def count_retries(delivery: Delivery, retries: object, expires_at: float | None) -> None:
    """Go on counting where another library has stopped, unless the message has a count of its own by now.

    A letter that was sent back begins anew, and so does not count again what it had counted there. One that has expired
    on its way back from a failed run there is not begun here.
    """
    meta = delivery.meta
    if ATTEMPTS in meta or REPLAYS in meta or delivery.attempts:
        return
    if expires_at is not None and expires_at <= time.time():
        return
    if isinstance(retries, str) and retries.isdecimal():  # a broker that keeps texts only had it in between
        retries = int(retries[: len(str(MAX_COUNT))])
    if isinstance(retries, int) and not isinstance(retries, bool):
        delivery.attempts = min(max(0, retries), MAX_COUNT)


def version_in(version: object) -> Mapping[str, Any]:
    """What an app looks for the version of a payload in."""
    if isinstance(version, str) and version.isdecimal():
        version = int(version[:9])
    return {} if version is None else {"version": version}
