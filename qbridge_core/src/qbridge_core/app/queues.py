"""Settings of the queues of an app."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from qbridge_core.contract.checks import check_declaration, check_queue_name
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.formats.base import Format
from qbridge_core.task.formats.chosen import formats_of

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
    formats: Sequence[Format | type[Format]] | None


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of an app.

    Attributes:
        name: its name.
        dead_letter_queue: where its letters go.
        settings: the other arguments of its manager.
        writes: the format of what is sent there; ``None`` for the envelope.
        feeders: other queues, in which messages for this one wait.
    """

    name: str
    dead_letter_queue: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    writes: Format | None = None
    feeders: Sequence[str] = ()


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
    formats = formats_of(settings.get("formats"))
    others = {key: value for key, value in settings.items() if key != _DEAD}
    if formats is None:
        return Queue(name, dead, others)
    return Queue(name, dead, others, formats.first, formats.feeders_of(name))


@functools.lru_cache(maxsize=1024)
def usual_queue(name: str) -> Queue:
    """A queue of which nobody has said anything.

    Raises:
        ConfigurationError: no queue can have such a name.
    """
    return queue_of(name, {})


def _elsewhere(setting: str) -> str:
    of_tasks = ("max_retries", "task_timeout", "backoff", "dead_letter_on", "retry_rules")
    return f" ({setting} is an argument of each task)" if setting in of_tasks else ""
