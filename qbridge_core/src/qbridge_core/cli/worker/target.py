"""A target of ``qbridge worker``, and the managers that become of it in a worker process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from qbridge_core.app.app import App
from qbridge_core.app.task import AppTask
from qbridge_core.cli.targets import failure, load, takes_payload
from qbridge_core.cli.worker.logs import set_up_logs
from qbridge_core.contract.names import default_dead_letter_queue
from qbridge_core.contract.registry import connect
from qbridge_core.errors import ConfigurationError, NotConnectedError, QBridgeError
from qbridge_core.work.manager import TaskManager

_OF_BROKERS: Final = ("--url", "--url-file")


@dataclass(frozen=True)
class Target:
    """Called in a worker process, it returns the managers: one, or those of an app. Another process can be told of it.

    Attributes:
        name: ``module:name`` of an app, a build function, a manager or a handler.
        url: the broker of an app or a handler; ``None`` where it was not said.
        queue: the queue of a handler; ``None`` where it was not said.
        settings: the other arguments of a handler's manager; ``lifespan`` by its name.
        typed: the options that only a handler has a use for, as they were given.
        log_level: for ``set_up_logs``.
        log_format: likewise.
        queues: those of an app; ``None`` for all.
    """

    name: str
    url: str | None = field(default=None, repr=False)  # has the password
    queue: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    typed: tuple[str, ...] = ()
    log_level: str | None = None
    log_format: str | None = None
    queues: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return self.name

    def __call__(self) -> list[TaskManager]:
        """Import, connect, and make the managers.

        Raises:
            ConfigurationError: the target is nothing that can be run; the text says what to write.
            QBridgeError: the broker cannot be reached, or refuses.
        """
        try:
            managers = self._managers(load(self.name))
        except SystemExit as exc:
            if type(exc) is not SystemExit:  # a signal's
                raise
            raise ConfigurationError(
                f"{self.name} ends the process (SystemExit) where it is imported or built: put what a program does "
                "below `if __name__ == '__main__':`"
            ) from None
        if not all(manager.queue_client.connected for manager in managers):
            raise ConfigurationError(
                f"the client of {self.name} is not connected: make it with qbridge_core.connect(url), or call its "
                "connect()"
            )
        set_up_logs(self.log_level, self.log_format)
        return managers

    def _managers(self, found: object) -> list[TaskManager]:
        if isinstance(found, App):
            return self._of_app(found)
        if self.queues is not None:
            raise ConfigurationError(f"{self.name} is no App; leave out -Q, which names queues of one")
        return [self._manager(found)]

    def _of_app(self, app: App) -> list[TaskManager]:
        self._refuse_options("is an App, whose queues and tasks have settings of their own", _OF_BROKERS)
        if self.url is not None and not app.is_connected:
            app.connect(self.url)
        return app.managers(self.queues)

    def _manager(self, found: object) -> TaskManager:
        if isinstance(found, TaskManager):
            self._refuse_options("is a TaskManager, which has settings of its own")
            return found
        if not callable(found) or isinstance(found, type):
            kind = "a class" if isinstance(found, type) else f"{_article(type(found).__name__)}"
            raise ConfigurationError(
                f"{self.name} is {kind}; a target is an App, a function that returns a TaskManager, a "
                "TaskManager, or a handler"
            )
        if isinstance(found, AppTask):
            raise ConfigurationError(f"{self.name} is a task of an App; the target is the App")
        if takes_payload(found, self.queue is not None):
            return self._of_handler(found)
        self._refuse_options("takes no argument, so it is no handler but builds a TaskManager with settings of its own")
        return self._built(found)

    def _refuse_options(self, what: str, allowed: Sequence[str] = ()) -> None:
        refused = [option for option in self.typed if option not in allowed]
        if refused:
            raise ConfigurationError(f"{self.name} {what}; leave out {', '.join(refused)}")

    def _built(self, build: Callable[..., object]) -> TaskManager:
        try:
            manager = build()
        except NotConnectedError as exc:
            raise ConfigurationError(f"{self.name} cannot build its TaskManager: {exc}") from exc
        except QBridgeError:
            raise
        except Exception as exc:
            raise failure(QBridgeError, f"{self.name} cannot build its TaskManager", exc) from exc
        if isinstance(manager, TaskManager):
            return manager
        if inspect.iscoroutine(manager):
            manager.close()  # nobody awaits it
            raise ConfigurationError(f"{self.name} is an `async def` function; the one that builds is a plain one")
        kind = "nothing" if manager is None else _article(type(manager).__name__)
        more = "; write a function for each queue" if isinstance(manager, list | tuple) else ""
        raise ConfigurationError(
            f"{self.name} returned {kind}: a function without an argument has to return a TaskManager{more}"
        )

    def _of_handler(self, handler: Callable[..., object]) -> TaskManager:
        if self.queue is None:
            raise ConfigurationError(
                f"{self.name} takes an argument, so it is a handler: say which queue with --queue, and let it be the "
                "only target. A function that builds a TaskManager takes none"
            )
        if self.url is None:
            raise ConfigurationError(f"which broker has the queue of {self.name}? Give --url, or set QBRIDGE_URL")
        settings = dict(self.settings)
        dead = settings.pop("dead", None) or default_dead_letter_queue(self.queue)
        if "lifespan" in settings:
            settings["lifespan"] = load(settings["lifespan"])
        client = connect(self.url)
        try:
            return TaskManager(client, handler, self.queue, dead, **settings)
        except BaseException:
            client.disconnect()
            raise


def _article(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"
