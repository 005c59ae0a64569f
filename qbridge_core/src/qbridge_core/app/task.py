"""A function that is a task: called as ever, and sent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, overload

from qbridge_core.app.payload.signature import Signature
from qbridge_core.app.sending import Outbox, SendOptions, TaskMessage
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.context import TaskContext, current_run
from qbridge_core.task.run import Run
from qbridge_core.task.terms import Terms

F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)
"""The function of a task, with the parameter that gets its context."""
P = ParamSpec("P")
"""The parameters of the function without its context."""
R = TypeVar("R")
Upgrade = Callable[[Any], Any]
_Upgrade = TypeVar("_Upgrade", bound=Upgrade)
_DIRECT: Final = "direct call"
_NO_OPTIONS: Final = SendOptions()


class AppTask(Generic[F_co]):
    """A task of an :class:`~qbridge_core.App`, which makes it. Thread-safe.

    Calling it calls the function, here and now. A function whose first parameter is a
    :class:`~qbridge_core.TaskContext` gets that of the running task, or one of its own outside of a task.

    Attributes:
        function: what runs.
        name: what it is called in messages.
        queue: where its messages go.
        aliases: older names, under which messages may still come.
        terms: its timeout, and the policy of its retries.
        signature: its parameters.
    """

    def __init__(
        self,
        function: F_co,
        name: str,
        queue: str,
        aliases: tuple[str, ...],
        terms: Terms,
        signature: Signature,
        outbox: Callable[[], Outbox],
    ) -> None:
        functools.update_wrapper(self, function)
        self._options = _NO_OPTIONS
        self.function: Final[F_co] = function
        self.name = name
        self.queue = queue
        self.aliases = aliases
        self.terms = terms
        self.signature = signature
        self.is_async: Final = inspect.iscoroutinefunction(function)
        self._outbox = outbox
        self._upgrades: list[Upgrade] = []

    # The overloads are here and not at the decorator: where there is an Any in the function's signature mypy cannot
    # choose between them, which does no harm here, since both return the same.

    @overload
    def __call__(self: AppTask[Callable[Concatenate[TaskContext, P], R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self: AppTask[Callable[P, R]], *args: P.args, **kwargs: P.kwargs) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function.

        Raises:
            ConfigurationError: it has options, which a call would pass over in silence.
        """
        if self._options is not _NO_OPTIONS:
            own = self.name.rpartition(".")[2]
            raise ConfigurationError(
                f"options are those of a message: write {own}.options(…).send(…), or call {own} itself"
            )
        if self.signature.context is None:
            return self.function(*args, **kwargs)
        return self.function(self._context(), *args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __reduce__(self) -> str:
        """A child process imports the module, and finds it there."""
        return str(vars(self)["__qualname__"])

    # ------------------------------------------------------------------ sending

    @overload
    def send(self: AppTask[Callable[Concatenate[TaskContext, P], Any]], *args: P.args, **kwargs: P.kwargs) -> str: ...
    @overload
    def send(self: AppTask[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> str: ...
    def send(self, *args: Any, **kwargs: Any) -> str:
        """Send a message that calls it with these arguments; return the task id. The message is confirmed on return.

        Arguments that are left to their defaults do not travel: the worker's defaults count.

        Raises:
            PayloadError: an argument is missing, or not of its type; the text has its path.
            ConfigurationError: it is not known which broker.
            The errors of ``QueueClient.publish`` and, at the first message, of ``connect`` and ``declare``.
        """
        message = self._message(args, kwargs)
        self.outbox.publish(message)
        return message.task_id

    @overload
    async def asend(
        self: AppTask[Callable[Concatenate[TaskContext, P], Any]], *args: P.args, **kwargs: P.kwargs
    ) -> str: ...
    @overload
    async def asend(self: AppTask[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> str: ...
    async def asend(self, *args: Any, **kwargs: Any) -> str:
        """The same for coroutines: those that are under way at the same time share their way to the broker.

        When it is cancelled the message goes its way, and the log says so if that fails.
        """
        message = self._message(args, kwargs)
        await self.outbox.apublish(message)
        return message.task_id

    @overload
    def message(
        self: AppTask[Callable[Concatenate[TaskContext, P], Any]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskMessage: ...
    @overload
    def message(self: AppTask[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> TaskMessage: ...
    def message(self, *args: Any, **kwargs: Any) -> TaskMessage:
        """The message that ``send`` would send, for :meth:`App.send_many`."""
        return self._message(args, kwargs)

    def options(
        self,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        task_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        publish_timeout: float | None = None,
        expires: float | datetime | None = None,
    ) -> Self:
        """The same task, of whose messages more is said: ``send_mail.options(delay=60).send(mail)``.

        What was said of it before stays, where this says nothing of it.

        Args:
            delay: seconds before it may be delivered.
            at: when it may be delivered, in the place of ``delay``; with a time zone. At once when that is past.
            task_id: its id; a UUID when missing.
            headers: strings, no names with the prefix ``x-qbridge-``.
            publish_timeout: seconds to wait for the confirmation; ``None`` means the client's setting.
            expires: seconds from when the message is made, or a time with a time zone. What no worker has begun by then
                is a dead letter, and does not run; what has begun is retried as ever.

        Raises:
            ConfigurationError: one of them makes no sense.
        """
        task = type(self).__new__(type(self))
        vars(task).update(vars(self))
        task._options = self._options.but(SendOptions(delay, at, task_id, headers, publish_timeout, expires))
        return task

    # ------------------------------------------------------------------ versions

    @property
    def payload_version(self) -> int:
        """What its messages are made of: 1, and one more for each ``version``."""
        return len(self._upgrades) + 1

    def version(self, number: int) -> Callable[[_Upgrade], _Upgrade]:
        """Decorate the function that makes a payload of this version from one of the version before.

        It is called with the payload of an older message, and returns what the payload of a newer one would be.

        Raises:
            ConfigurationError: the numbers do not follow one another.
        """
        if number != self.payload_version + 1:
            raise ConfigurationError(
                f"{self.name} has payloads of version {self.payload_version}, so the next one is "
                f"version({self.payload_version + 1}), not version({number!r})"
            )

        def decorate(upgrade: _Upgrade) -> _Upgrade:
            self._upgrades.append(upgrade)
            return upgrade

        return decorate

    def upgraded(self, payload: object, version: int) -> object:
        """The payload of an older message as one of today."""
        for upgrade in self._upgrades[version - 1 :]:
            payload = upgrade(payload)
        return payload

    # ------------------------------------------------------------------ for those who send and run it

    @property
    def outbox(self) -> Outbox:
        """What sends its messages."""
        return self._outbox()

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskMessage:
        payload = self.signature.encode(self.name, args, kwargs)
        return self.outbox.message(self.name, self.queue, payload, self.payload_version, self._options)

    def _context(self) -> TaskContext:
        run = current_run.get()
        return TaskContext(run or Run(Delivery(b"", self.queue), _DIRECT, self.terms))


def check_names(added: Sequence[AppTask[Any]], tasks: Sequence[AppTask[Any]]) -> None:
    """Refuse tasks that have a name of one that is there.

    Raises:
        ConfigurationError: one of them has.
    """
    taken = {name: each for each in tasks for name in (each.name, *each.aliases)}
    for task in added:
        for name in (task.name, *task.aliases):
            if name in taken:
                raise ConfigurationError(
                    f"two tasks are called {name!r}: {_place(taken[name])} and {_place(task)}; give one of them "
                    "another name"
                )


def _place(task: AppTask[Any]) -> str:
    return f"{task.function.__module__}.{task.function.__qualname__}"
