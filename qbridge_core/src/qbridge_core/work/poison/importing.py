"""Whether a child process can run a handler without the main program, and how it imports it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from qbridge_core.execute.executor import unwrapped
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.retry import RetryPolicy
from qbridge_core.task.runhooks import RunHooks

if TYPE_CHECKING:
    from qbridge_core.execute.lifespan import Lifespan

# The second is what a main program is called where it was imported by a child process or below a Supervisor.
_MAIN_PROGRAMS: Final = ("__main__", "__mp_main__")


def can_be_isolated(handler: Callable[..., object], lifespan: Lifespan | None = None) -> bool:
    """False when a child process surely cannot import these two; cheap, so it may be True for others too."""
    if os.name != "posix":
        return False
    return _may_be_imported(handler) and (lifespan is None or _may_be_imported(lifespan))


def _may_be_imported(function: Callable[..., object]) -> bool:
    function = unwrapped(function)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    module = getattr(function, "__module__", None) or type(function).__module__
    return module not in _MAIN_PROGRAMS and "<" not in name  # neither <locals> nor <lambda>


def setup_of(
    handler: Callable[..., object],
    lifespan: Lifespan | None = None,
    run_hooks: RunHooks | None = None,
    formats: Formats | None = None,
) -> bytes:
    """The first message to the child: how to import the handler, the lifespan, and plugins as far as they can be had.

    Formats of messages go along.

    Raises:
        ValueError: another process cannot have them without importing the main program.
    """
    import pickle  # here, for a worker without suspects does without

    from qbridge_core.runtime.interpreter import main_program

    try:
        # Any failure is repeated in a worker, so the policy need not be known there.
        program = pickle.dumps((handler, RetryPolicy(), lifespan, _portable(run_hooks), formats))
    except Exception as exc:
        raise ValueError(
            f"it, its lifespan or a format of its queue cannot be imported by another process ({exc})"
        ) from exc
    if _names_main_program(program):
        raise ValueError("it, or something that belongs to it, is defined in the main program")
    preparation = {name: value for name, value in main_program().items() if not name.startswith("init_main_")}
    return pickle.dumps((preparation, program, False))


def _portable(run_hooks: RunHooks | None) -> RunHooks | None:
    """The plugins around a run, where another process can have them; a failure without them is repeated in a worker."""
    import pickle

    try:
        return None if _names_main_program(pickle.dumps(run_hooks)) else run_hooks
    except Exception:  # noqa: BLE001 - pickle raises anything
        return None


def _names_main_program(pickled: bytes) -> bool:
    import pickletools

    return any(argument in _MAIN_PROGRAMS for _, argument, _ in pickletools.genops(pickled))
