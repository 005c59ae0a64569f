"""Checks the arguments of a ``TaskManager``: a wrong one is a clear error at once.

They return what they were given, or raise ``ConfigurationError``; ``checked_client`` also ``NotConnectedError``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from qbridge_core.contract.checks import MAX_ID_CHARS, check_queue_name
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.names import suspects_queue
from qbridge_core.errors import ConfigurationError, NotConnectedError
from qbridge_core.execute.executor import is_coroutine_function
from qbridge_core.runtime.system import require_posix
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.retry import ExceptionRule, RetryPolicy
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.task.terms import Policy

if TYPE_CHECKING:
    import asyncio

    from qbridge_core.execute.lifespan import Lifespan
    from qbridge_core.execute.processes.children import Program


def checked_client(client: object) -> QueueClient:
    """A client that is connected."""
    if not isinstance(client, QueueClient):
        raise ConfigurationError(
            f"queue_client must be a QueueClient (see qbridge_core.connect), not a {type(client).__name__}"
        )
    if not client.connected:
        raise NotConnectedError("the queue client is not connected; call its connect() before creating a TaskManager")
    return client


def check_backoffs(client: QueueClient, policies: Iterable[Policy]) -> None:
    """Refuse delays that the broker cannot hold.

    Raises:
        ConfigurationError: a policy has some, and the client none.
    """
    if not client.capabilities.delay and any(policy.has_delays for policy in policies):
        raise ConfigurationError(f"{type(client).__name__} has no delays, so backoff cannot be used with it")


def checked_redact(redact: object) -> Callable[[str], str] | None:
    """A function, or None."""
    if redact is not None and not callable(redact):
        raise ConfigurationError(f"redact must be a function from text to text, not {redact!r}")
    return redact


def checked_flag(name: str, value: object) -> bool:
    """The argument, when it is True or False.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")
    return value


def checked_loop_factory(
    factory: object, handler: Callable[..., object], program: Program | None
) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """A function that makes event loops, for a handler that can use one, or None."""
    if factory is None:
        return None
    if not callable(factory):
        wanted = "loop_factory must be a function that makes an event loop, such as asyncio.new_event_loop"
        raise ConfigurationError(f"{wanted}, not {factory!r}")
    if program is not None or not is_coroutine_function(handler):
        raise ConfigurationError("loop_factory needs an `async def` handler, and executor='thread'")
    return factory


def checked_program(
    executor: object,
    handler: Callable[..., object],
    policy: RetryPolicy,
    max_tasks_per_child: object,
    max_memory_per_child: object,
    lifespan: Lifespan | None,
    run_hooks: RunHooks | None = None,
    formats: Formats | None = None,
) -> Program | None:
    """What child processes load; None when handlers run in threads."""
    max_tasks = checked_count("max_tasks_per_child", max_tasks_per_child)
    max_memory = checked_count("max_memory_per_child", max_memory_per_child)
    if executor == "process":
        require_posix("executor='process'")
        from qbridge_core.execute.processes.children import Program

        return Program.of(handler, policy, max_tasks, max_memory, lifespan, run_hooks, formats)
    if executor != "thread":
        raise ConfigurationError(f"executor must be 'thread' or 'process', not {executor!r}")
    if max_tasks is not None or max_memory is not None:
        raise ConfigurationError("max_tasks_per_child and max_memory_per_child need executor='process'")
    return None


def checked_crashes(value: object) -> int:
    """How many deaths are enough: the suspicion and one that confirms it at least."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ConfigurationError(f"max_crashes must be an integer of at least 2, not {value!r}")
    return value


def checked_exceptions(value: object) -> tuple[type[BaseException], ...]:
    """A sequence; the policy checks what is in it."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"dead_letter_on must be a sequence of exception classes, not {value!r}")
    return tuple(value)


def checked_rules(value: object) -> tuple[ExceptionRule, ...]:
    """A sequence of rules."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigurationError(f"retry_rules must be a sequence of ExceptionRule objects, not {value!r}")
    if not all(isinstance(rule, ExceptionRule) for rule in value):
        raise ConfigurationError(f"retry_rules must hold ExceptionRule objects only, not {value!r}")
    return tuple(value)


def checked_count(name: str, value: object) -> int | None:
    """A positive integer, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{name} must be an integer of at least 1, not {value!r}")
    return value


def check_queues(input_queue: object, dead_letter_queue: object) -> None:
    """Refuse names that no queue can have, or that cannot go together.

    Raises:
        ConfigurationError: the text says why.
    """
    queue = check_queue_name(input_queue, MAX_ID_CHARS - len(suspects_queue("")), what="input_queue")
    check_queue_name(dead_letter_queue, what="dead_letter_queue")
    if queue == dead_letter_queue:
        raise ConfigurationError(f"input_queue and dead_letter_queue are both {queue!r}; they must differ")
    if dead_letter_queue == suspects_queue(queue):
        raise ConfigurationError(
            f"dead_letter_queue cannot be {dead_letter_queue!r}: tasks of {queue!r} that may have killed "
            "their worker wait there to run again; choose another name"
        )


def check_dead_letter_routes(routes: Mapping[str, str]) -> list[str]:
    """Refuse dead letters that would go round for ever; return the queues whose letters run again in another one.

    Args:
        routes: the dead-letter queue of each queue that one program works on, at one broker.

    Raises:
        ConfigurationError: they go round, or to where tasks of another queue wait that may have killed their worker.
    """
    side_queues = {suspects_queue(queue): queue for queue in routes}
    for queue, dead in routes.items():
        if dead in side_queues:
            raise ConfigurationError(
                f"dead_letter_queue of {queue!r} cannot be {dead!r}: tasks of {side_queues[dead]!r} that may have "
                "killed their worker wait there to run again; choose another name"
            )
        way = [queue]
        while (following := routes.get(way[-1])) is not None and following not in way:
            way.append(following)
        if following == queue:
            raise ConfigurationError(
                f"dead letters would go round, {' -> '.join(map(repr, [*way, queue]))}, and a task that always fails "
                "would run for ever: give one of these queues a dead_letter_queue that no worker of this program "
                "takes tasks from"
            )
    return [queue for queue, dead in routes.items() if dead in routes]
