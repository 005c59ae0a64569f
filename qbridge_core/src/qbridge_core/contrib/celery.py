"""Tasks that are called as Celery's are, with ``delay`` and ``apply_async``: for a program that comes from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Concatenate, Final, ParamSpec, Protocol, TypeVar, overload

from qbridge_core.app.app import App
from qbridge_core.app.task import AppTask
from qbridge_core.contract.names import meant
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.context import TaskContext

__all__ = ["CeleryApp", "CeleryTask", "TaskId"]

F = TypeVar("F", bound=Callable[..., Any])
F_co = TypeVar("F_co", bound=Callable[..., Any], covariant=True)
P = ParamSpec("P")
_OPTIONS: Final = ("args", "kwargs", "countdown", "eta", "expires", "task_id", "headers")


class TaskId(str):
    """The id of a task that was sent. Where Celery returns a result, this is returned; there is no result behind it."""

    __slots__ = ()

    @property
    def id(self) -> str:
        """The id, by the name that it has in Celery's result."""
        return str(self)


class CeleryTask(AppTask[F_co]):
    """A task of a :class:`CeleryApp`. Thread-safe."""

    @overload
    def delay(
        self: CeleryTask[Callable[Concatenate[TaskContext, P], Any]], *args: P.args, **kwargs: P.kwargs
    ) -> TaskId: ...
    @overload
    def delay(self: CeleryTask[Callable[P, Any]], *args: P.args, **kwargs: P.kwargs) -> TaskId: ...
    def delay(self, *args: Any, **kwargs: Any) -> TaskId:
        """Send it, as ``send`` does.

        Raises:
            The errors of ``send``.
        """
        return TaskId(self.send(*args, **kwargs))

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        countdown: float | None = None,
        eta: datetime | None = None,
        expires: float | datetime | None = None,
        task_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        **others: object,
    ) -> TaskId:
        """Send it, with arguments in a list and a mapping.

        Args:
            args: positional arguments.
            kwargs: keyword arguments.
            countdown: seconds before it may run.
            eta: when it may run, in the place of ``countdown``. Without a time zone it is UTC, as with Celery.
            expires: seconds, or a time as ``eta`` is one, after which it is not begun any more.
            task_id: its id; a UUID when missing.
            headers: strings, no names with the prefix ``x-qbridge-``.
            **others: nothing: each option of Celery's that has no counterpart is refused.

        Raises:
            ConfigurationError: there is no such option, or it makes no sense.
            The errors of ``send``.
        """
        for name in others:
            raise _unknown(self.name, name)
        task: AppTask[Callable[..., Any]] = self.options(
            delay=0.0 if countdown is None else countdown,
            at=_aware(eta),
            expires=_aware(expires),
            task_id=task_id,
            headers=headers,
        )
        return TaskId(task.send(*(args or ()), **(kwargs or {})))


class CeleryTaskDecorator(Protocol):
    """Makes a :class:`CeleryTask` of a function."""

    def __call__(self, function: F, /) -> CeleryTask[F]:
        """Register it."""
        ...


class CeleryApp(App):
    """An :class:`~qbridge_core.App` whose tasks have ``delay`` and ``apply_async`` beside ``send``.

    It sends and works as an ``App`` does; nothing of Celery is needed for it, or imported.
    """

    task_type: ClassVar[type[AppTask[Any]]] = CeleryTask

    @overload
    def task(self, function: F, /) -> CeleryTask[F]: ...
    @overload
    def task(self, /, **settings: Any) -> CeleryTaskDecorator: ...
    def task(self, function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
        """Decorate a function to make a task of it: see :meth:`App.task`.

        Raises:
            The errors of ``App.task``.
        """
        return super().task(**settings) if function is None else super().task(function)


def _aware(moment: Any) -> Any:
    """A time without a time zone is UTC; anything else stays as it is."""
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) and moment.tzinfo is None else moment


def _unknown(task: str, option: str) -> ConfigurationError:
    return ConfigurationError(
        f"apply_async of {task} has no {option!r}; {meant(option, _OPTIONS)}. What takes the place of others: "
        "docs/coming-from-celery.md"
    )
