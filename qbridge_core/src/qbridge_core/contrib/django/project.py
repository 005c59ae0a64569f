"""All tasks of a project as one app, for workers and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings

from qbridge_core.app.app import App
from qbridge_core.app.task import AppTask
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.registry import client_for
from qbridge_core.contrib.django.finding import discover, found_apps
from qbridge_core.contrib.django.framework import URL_SETTING, DjangoFramework
from qbridge_core.errors import ConfigurationError

if TYPE_CHECKING:
    from qbridge_core.contrib.django.backend.tasksapp import TasksApp
    from qbridge_core.work.manager import TaskManager

_SIGNALS: Final = "qbridge_core.contrib.django.backend.signals:Signals"


def project_app() -> Project:
    """The tasks of each installed app: those of an ``App``, and those of ``django.tasks`` whose backend is QBridge.

    Raises:
        ConfigurationError: there are none, they do not go together, or a module ``tasks`` cannot be imported.
    """
    discover()
    own = found_apps()
    if problem := several(own):
        raise ConfigurationError(problem)
    roots = _roots(own, backends())
    if not roots:
        raise ConfigurationError(
            "there are no tasks in the modules `tasks` of INSTALLED_APPS, or in what they import: neither of an App, "
            "nor of a backend in TASKS that is QBridge's"
        )
    return Project(roots)


def several(apps: Sequence[App]) -> str | None:
    """What is wrong with more than one app."""
    if len(apps) < 2:
        return None
    names = ", ".join(sorted(task.name for app in apps for task in app.tasks[:1]))
    return (
        f"there are {len(apps)} apps (with the tasks {names}, for example), and a project has one: let all modules "
        "import the same App, or one App include the others"
    )


class Project(App):
    """One app or several, each with a broker of its own, that are worked off together.

    Args:
        roots: the apps by their brokers.
    """

    def __init__(self, roots: Mapping[str, App]) -> None:
        super().__init__()
        self._roots = roots

    @property
    def tasks(self) -> list[AppTask[Any]]:
        """Those of all."""
        return [task for root in self._roots.values() for task in root.tasks]

    @property
    def is_connected(self) -> bool:
        """The settings say where the brokers are, and nobody else."""
        return True

    def connect(self, url: str | None = None, **options: object) -> QueueClient:
        """Refuse it."""
        del url, options
        raise ConfigurationError("the settings of Django say which broker")

    def close(self) -> None:
        """Disconnect all."""
        for root in self._roots.values():
            root.close()

    def refuse_own_broker(self) -> None:
        """A worker is a process of its own, which has to see what others send.

        Raises:
            ConfigurationError: a broker lives in each process apart.
        """
        for url in self._roots:
            if not client_for(url).capabilities.shared:
                raise ConfigurationError(
                    f"{url.partition(':')[0]}:// lives in one process, so a worker does not see what others send: set "
                    f"{URL_SETTING} to redis://localhost:6379/0, for one. Tests call project_app().run_until_idle()"
                )

    def _managers(self, queues: Sequence[str] | None, start_timeout: float) -> list[TaskManager]:
        from qbridge_core.app.worker import chosen

        used = list(dict.fromkeys(task.queue for task in self.tasks))
        wanted = [queue.name for queue in chosen({name: self._layout.queue(name) for name in used}, used, queues)]
        found: list[TaskManager] = []
        for root in self._roots.values():
            its_own = {task.queue for task in root.tasks}
            own = [name for name in wanted if name in its_own]
            found += root._managers(own, start_timeout) if own else []
        return found


def backends() -> list[TasksApp]:
    """The apps of those backends of ``django.tasks`` that are QBridge's."""
    if not hasattr(settings, "TASKS"):
        return []
    from qbridge_core.contrib.django.backend.library import task_backends
    from qbridge_core.contrib.django.backend.sending import QBridgeBackend

    return [backend.app for backend in task_backends.all() if isinstance(backend, QBridgeBackend)]


def _roots(own: Sequence[App], apps: Sequence[TasksApp]) -> dict[str, App]:
    """One app for each broker, which includes the others; none where there are no tasks."""
    by_url: dict[str, App] = {DjangoFramework().url(): app for app in own if app.tasks}
    tasks = _django_tasks() if apps else []
    for app in apps if tasks else ():
        root = by_url.setdefault(app.url, app._root)
        if root is not app._root:
            root.include(app)
        app.django_tasks = tasks  # from now on: two backends may have the same ones
        _tell_signals(root)
    return by_url


def _django_tasks() -> list[Any]:
    from qbridge_core.contrib.django.backend.found import found_tasks

    return found_tasks()


def _tell_signals(root: App) -> None:
    """What has failed for good is told to the signals of Django."""
    plugins = root._settings["plugins"]
    if _SIGNALS not in plugins:
        root._settings = {**root._settings, "plugins": [*plugins, _SIGNALS]}
