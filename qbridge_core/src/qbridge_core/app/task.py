"""A function that is a task: called as ever, and sent."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Generic, ParamSpec, TypeVar

from qbridge_core.app.payload.signature import Signature
from qbridge_core.app.sending import Outbox, SendOptions, TaskMessage
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.context import TaskContext, current_run
from qbridge_core.task.run import Run
from qbridge_core.task.terms import Terms

P = ParamSpec("P")
"""The parameters of a function without its context."""
R = TypeVar("R")
Upgrade = Callable[[Any], Any]
_Upgrade = TypeVar("_Upgrade", bound=Upgrade)
_DIRECT: Final = "direct call"


class Sender(Generic[P]):
    """Sends messages of a task: an :class:`AppTask`, or one with :meth:`~AppTask.options`. Thread-safe."""

    _task: AppTask[Any, Any]
    _options: SendOptions

    def send(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Send a message that calls it with these arguments; return the task id. The message is confirmed on return.

        Arguments that are left to their defaults do not travel: the worker's defaults count.

        Raises:
            PayloadError: an argument is missing, or not of its type; the text has its path.
            ConfigurationError: it is not known which broker.
            The errors of ``QueueClient.publish`` and, at the first message, of ``connect`` and ``declare``.
        """
        message = self._message(args, kwargs)
        self._task.outbox.publish(message)
        return message.task_id

    async def asend(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """The same for coroutines: another thread waits for the broker. When it is cancelled, that thread goes on."""
        import asyncio  # here, for most producers do without

        message = self._message(args, kwargs)
        await asyncio.to_thread(self._task.outbox.publish, message)
        return message.task_id

    def message(self, *args: P.args, **kwargs: P.kwargs) -> TaskMessage:
        """The message that ``send`` would send, for :meth:`App.send_many`."""
        return self._message(args, kwargs)

    def _message(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TaskMessage:
        task, options = self._task, self._options
        content, task_id = Message.for_task(
            task.signature.encode(task.name, args, kwargs),
            task_id=options.task_id,
            headers=options.headers,
            name=task.name,
            version=task.payload_version,
        )
        return TaskMessage(task.name, task.queue, task_id, content, options)


class AppTask(Sender[P], Generic[P, R]):
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
        function: Callable[..., R],
        name: str,
        queue: str,
        aliases: tuple[str, ...],
        terms: Terms,
        signature: Signature,
        outbox: Callable[[], Outbox],
    ) -> None:
        functools.update_wrapper(self, function)
        self._task, self._options = self, SendOptions()
        self.function = function
        self.name = name
        self.queue = queue
        self.aliases = aliases
        self.terms = terms
        self.signature = signature
        self.is_async: Final = inspect.iscoroutinefunction(function)
        self._outbox = outbox
        self._upgrades: list[Upgrade] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function."""
        if self.signature.context is None:
            return self.function(*args, **kwargs)
        return self.function(self._context(), *args, **kwargs)

    def __repr__(self) -> str:
        return f"<task {self.name}>"

    def __reduce__(self) -> str:
        """A child process imports the module, and finds it there."""
        return str(vars(self)["__qualname__"])

    # ------------------------------------------------------------------ sending

    def options(
        self,
        *,
        delay: float = 0.0,
        at: datetime | None = None,
        task_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        publish_timeout: float | None = None,
    ) -> Sender[P]:
        """Say more of a message, as in ``send_mail.options(delay=60).send(mail)``.

        Args:
            delay: seconds before it may be delivered.
            at: when it may be delivered, in the place of ``delay``; with a time zone. At once when that is past.
            task_id: its id; a UUID when missing.
            headers: strings, no names with the prefix ``x-qbridge-``.
            publish_timeout: seconds to wait for the confirmation; ``None`` means the client's setting.

        Raises:
            ConfigurationError: one of them makes no sense.
        """
        sender: Sender[P] = Sender()
        sender._task, sender._options = self, SendOptions(delay, at, task_id, headers, publish_timeout)
        return sender

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

    def _context(self) -> TaskContext:
        run = current_run.get()
        return TaskContext(run or Run(Delivery(b"", self.queue), _DIRECT, self.terms))
