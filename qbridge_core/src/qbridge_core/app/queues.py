"""Settings of the queues of an app, and of pools of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict

from qbridge_core.contract.checks import check_declaration, check_queue_name
from qbridge_core.contract.names import default_dead_letter_queue, meant
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.formats.base import Format
from qbridge_core.task.formats.chosen import Formats, formats_of

if TYPE_CHECKING:
    import asyncio

DEFAULT_QUEUE: Final = "default"
_DEAD: Final = "dead_letter_queue"
MOST_WEIGHT: Final = 1000


class PoolSettings(TypedDict, total=False):
    """What :meth:`App.pool` takes: arguments of :class:`~qbridge_core.TaskManager`, which describes them."""

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


class QueueSettings(PoolSettings, total=False):
    """What :meth:`App.queue` takes: the same, and what each queue has for itself."""

    dead_letter_queue: str


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue of an app.

    Attributes:
        name: its name.
        dead_letter_queue: where its letters go.
        settings: the other arguments of its manager.
        formats: of its messages; ``None`` for the envelope alone.
    """

    name: str
    dead_letter_queue: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    formats: Formats | None = None

    @property
    def writes(self) -> Format | None:
        """The format of what is sent there; ``None`` for the envelope."""
        return None if self.formats is None else self.formats.first

    @property
    def feeders(self) -> Sequence[str]:
        """Other queues, in which messages for this one wait."""
        return () if self.formats is None else self.formats.feeders_of(self.name)


@dataclass(frozen=True, slots=True)
class QueuePool:
    """Queues of an app whose tasks share their workers.

    Attributes:
        name: what it is called.
        weights: of its queues.
        settings: arguments of its manager.
        formats: of the messages of all of its queues; ``None`` for the envelope alone.
    """

    name: str
    weights: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    formats: Formats | None = None

    def has(self, queue: Queue) -> Queue:
        """One of its queues, with what all of them have in common."""
        return queue if self.formats is None else replace(queue, formats=self.formats)


def queue_of(name: str, settings: Mapping[str, Any]) -> Queue:
    """A queue with these settings; those that are not given have the defaults of a manager.

    Raises:
        ConfigurationError: no queue can have such a name, or there is no such setting.
    """
    check_queue_name(name)
    _check_settings(f"queue {name!r}", settings, QueueSettings.__annotations__)
    dead = settings.get(_DEAD) or default_dead_letter_queue(name)
    check_declaration(name, dead)
    others = {key: value for key, value in settings.items() if key != _DEAD}
    return Queue(name, dead, others, formats_of(settings.get("formats")))


def pool_of(name: str, weights: object, settings: Mapping[str, Any]) -> QueuePool:
    """A pool of these queues.

    Raises:
        ConfigurationError: the name is none, a queue has no weight that makes sense, or there is no such setting.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"the name of a pool must be a text, not {name!r}")
    if not isinstance(weights, Mapping) or not weights:
        raise ConfigurationError(
            f'queues of pool {name!r} must be names with weights, as in {{"urgent": 5, "normal": 1}}, not {weights!r}'
        )
    for queue, weight in weights.items():
        check_queue_name(queue)
        if type(weight) is not int or not 1 <= weight <= MOST_WEIGHT:
            raise ConfigurationError(
                f"the weight of {queue!r} in pool {name!r} must be a whole number from 1 to {MOST_WEIGHT}, "
                f"not {weight!r}"
            )
    if _DEAD in settings:
        raise ConfigurationError(
            f"pool {name!r} has no dead_letter_queue; each of its queues may have one, as in "
            f"app.queue({next(iter(weights))!r}, dead_letter_queue=...)"
        )
    _check_settings(f"pool {name!r}", settings, PoolSettings.__annotations__)
    return QueuePool(name, dict(weights), dict(settings), formats_of(settings.get("formats")))


def check_together(pools: Iterable[QueuePool], queues: Iterable[Queue]) -> None:
    """Refuse pools that share a name or a queue, a queue with settings in two places, or with some that are its pool's.

    Raises:
        ConfigurationError: the text says what to do.
    """
    names: set[str] = set()
    found: dict[str, QueuePool] = {}
    for pool in pools:
        if pool.name in names:
            raise ConfigurationError(f"there is a pool {pool.name!r} already; give one of them another name")
        names.add(pool.name)
        for queue in pool.weights:
            if other := found.get(queue):
                raise ConfigurationError(
                    f"queue {queue!r} is in two pools, {other.name!r} and {pool.name!r}; leave it out of one of them"
                )
            found[queue] = pool
    seen: set[str] = set()
    for one in queues:
        if (owner := found.get(one.name)) is not None and one.settings:
            raise ConfigurationError(
                f"queue {one.name!r} is in pool {owner.name!r}, whose queues share {', '.join(one.settings)}: give "
                f"that to app.pool({owner.name!r}, ...); only dead_letter_queue is the queue's own"
            )
        if one.name in seen:
            raise ConfigurationError(
                f"queue {one.name!r} has its settings already, in this app or in one that goes with it: give all of "
                "them in one place"
            )
        seen.add(one.name)


def check_dead_letters(queues: Collection[Queue]) -> None:
    """Refuse a queue whose dead letters would go to where this program takes its tasks from, and would run again.

    Raises:
        ConfigurationError: there is one.
    """
    names = {queue.name for queue in queues}
    for queue in queues:
        if queue.dead_letter_queue in names:
            raise ConfigurationError(
                f"dead_letter_queue of {queue.name!r} cannot be {queue.dead_letter_queue!r}, from which this app takes "
                "tasks: its letters would run again"
            )


def _check_settings(what: str, settings: Mapping[str, Any], known: Collection[str]) -> None:
    for setting in settings:
        if setting not in known:
            raise ConfigurationError(f"{what} has no setting {setting!r}; {meant(setting, known)}{_elsewhere(setting)}")


def _elsewhere(setting: str) -> str:
    of_tasks = ("max_retries", "task_timeout", "backoff", "dead_letter_on", "retry_rules")
    return f" ({setting} is an argument of each task)" if setting in of_tasks else ""
