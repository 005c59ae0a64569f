"""Settings of the queues of an app."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from qbridge_core.contract.checks import check_declaration, check_queue_name
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.errors import ConfigurationError

if TYPE_CHECKING:
    import asyncio

DEFAULT_QUEUE: Final = "default"
_DEAD: Final = "dead_letter_queue"


class QueueSettings(TypedDict, total=False):
    """What :meth:`App.queue` takes: arguments of :class:`~qbridge_core.TaskManager`, which describes them."""

    dead_letter_queue: str
    max_workers: int | None
    executor: Literal["thread", "process"]
    max_crashes: int
    max_abandoned: int
    max_message_bytes: int | None
    max_tasks_per_child: int | None
    max_memory_per_child: int | None
    interrupt: bool
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of an app.

    Attributes:
        name: its name.
        dead_letter_queue: where its letters go.
        settings: the other arguments of its manager.
    """

    name: str
    dead_letter_queue: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def queue_of(name: str, settings: Mapping[str, Any]) -> Queue:
    """A queue with these settings; those that are not given have the defaults of a manager.

    Raises:
        ConfigurationError: no queue can have such a name, or there is no such setting.
    """
    check_queue_name(name)
    known = QueueSettings.__annotations__
    for setting in settings:
        if setting not in known:
            alike = difflib.get_close_matches(setting, known, 1)
            hint = f"did you mean {alike[0]!r}?" if alike else f"there are {', '.join(known)}"
            raise ConfigurationError(f"queue {name!r} has no setting {setting!r}; {hint}{_elsewhere(setting)}")
    dead = settings.get(_DEAD) or default_dead_letter_queue(name)
    check_declaration(name, dead)
    return Queue(name, dead, {key: value for key, value in settings.items() if key != _DEAD})


def _elsewhere(setting: str) -> str:
    of_tasks = ("max_retries", "task_timeout", "backoff", "dead_letter_on", "retry_rules")
    return f" ({setting} is an argument of each task)" if setting in of_tasks else ""
