"""``App``: tasks with names, their queues, and both ends of them, producers and workers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, TypeVar, Unpack, overload

from qbridge_core.app.connection import Connection
from qbridge_core.app.layout import Layout
from qbridge_core.app.naming import check_aliases, name_of
from qbridge_core.app.payload.signature import signature_of
from qbridge_core.app.queues import (
    DEFAULT_QUEUE,
    PoolSettings,
    QueueSettings,
    check_dead_letters,
    pool_of,
    queue_of,
)
from qbridge_core.app.sending import Outbox, TaskMessage
from qbridge_core.app.task import AppTask, check_names
from qbridge_core.contract.checks import check_queue_name, require_seconds
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.outcome import RunReport
from qbridge_core.task.retry import IMMEDIATELY, Backoff, ExceptionRule, terms_of

if TYPE_CHECKING:
    from qbridge_core.aio.client import AsyncQueueClient
    from qbridge_core.execute.lifespan import Lifespan
    from qbridge_core.work.manager import TaskManager

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_PATIENCE: Final = 600.0


class TaskDecorator(Protocol):
    """Makes a task of a function."""

    def __call__(self, function: F, /) -> AppTask[F]:
        """Register it."""
        ...


class App:
    """The tasks of a program. Nothing is opened when it is made, so it can be a global of a module.

    Two apps share nothing. Producers and workers import the same app; the functions are registered once, when their
    modules are imported. Sending may be done in any thread; the rest is for one thread at a time.

    Args:
        declare: whether it creates the queues that it sends to; False for a producer that has no right to do so.
            Workers create theirs in any case.
        on_unknown: seconds for which a worker puts a message off that it is too old for: a task that it does not know,
            or a payload of a newer version. Then it is a dead letter. 0 means at once.
        grace_period: seconds that running tasks get when a worker stops.
        lifespan: what each worker process opens, once for each queue or pool, and closes at its end; see
            :class:`~qbridge_core.TaskManager`, also for the next two.
        plugins: objects with lifecycle hooks.
        redact: called with the texts of exceptions before they are shown.

    Raises:
        ConfigurationError: an argument is wrong.
    """

    task_type: ClassVar[type[AppTask[Any]]] = AppTask
    """What ``task`` makes of a function."""

    def __init__(
        self,
        *,
        declare: bool = True,
        on_unknown: float = DEFAULT_PATIENCE,
        grace_period: float = 25.0,
        lifespan: Lifespan | None = None,
        plugins: Sequence[object] = (),
        redact: Callable[[str], str] | None = None,
    ) -> None:
        if not isinstance(declare, bool):
            raise ConfigurationError(f"declare must be True or False, not {declare!r}")
        self._patience = require_seconds("on_unknown", on_unknown)
        self._settings: Mapping[str, Any] = {
            "grace_period": require_seconds("grace_period", grace_period),
            "lifespan": lifespan,
            "plugins": plugins,
            "redact": redact,
        }
        self._tasks: dict[str, AppTask[Any]] = {}
        self._layout = Layout()
        self._included: list[App] = []
        self._parent: App | None = None
        self._connection = Connection()
        self._outbox = Outbox(self._connection, self._layout.queue, self._has_task, declare=declare)

    # ------------------------------------------------------------------ what there is

    @overload
    def task(self, function: F, /) -> AppTask[F]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        queue: str = DEFAULT_QUEUE,
        max_retries: int = 3,
        backoff: Backoff = IMMEDIATELY,
        task_timeout: float = 10.0,
        dead_letter_on: Sequence[type[BaseException]] = (),
        retry_rules: Sequence[ExceptionRule] = (),
        whole_payload: bool = False,
    ) -> TaskDecorator: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        aliases: Sequence[str] = (),
        queue: str = DEFAULT_QUEUE,
        max_retries: int = 3,
        backoff: Backoff = IMMEDIATELY,
        task_timeout: float = 10.0,
        dead_letter_on: Sequence[type[BaseException]] = (),
        retry_rules: Sequence[ExceptionRule] = (),
        whole_payload: bool = False,
    ) -> Any:
        """Decorate a function to make a task of it; bare, or with arguments.

        The parameters are the keys of its payload, and their annotations decide how values are written and read. One
        that is annotated as :class:`~qbridge_core.TaskContext`, the first, gets that and is no part of the payload.

        Args:
            function: the function, when the decorator stands there without arguments.
            name: what it is called in messages; its module and its own name, with a dot between them, when missing.
            aliases: older names under which messages may still come.
            queue: where its messages go.
            max_retries: how often to retry after the first failed run.
            backoff: delays between attempts, held by the broker.
            task_timeout: seconds that a run may take.
            dead_letter_on: exception types that are never retried.
            retry_rules: exception types with a backoff or a limit of their own.
            whole_payload: the payload is the value of the only parameter, and not an object with its name in it.

        Raises:
            ConfigurationError: it cannot be a task, an argument is wrong, or another task has one of its names.
        """
        terms = terms_of(max_retries, backoff, task_timeout, dead_letter_on, retry_rules)
        check_queue_name(queue)
        older = check_aliases(aliases)

        def decorate(decorated: Callable[..., Any]) -> AppTask[Any]:
            if isinstance(decorated, AppTask):
                raise ConfigurationError(
                    f"{decorated.name} is a task already: its other names are aliases=[…], and another app makes its "
                    "own of the function: other.task(…)(that.function)"
                )
            own = name_of(decorated, name)
            signature = signature_of(decorated, own, whole_payload=whole_payload)
            return self._register(self.task_type(decorated, own, queue, older, terms, signature, self._root_outbox))

        return decorate if function is None else decorate(function)

    def queue(self, name: str, **settings: Unpack[QueueSettings]) -> None:
        """Say how a queue is worked on, before or after its tasks; without this the defaults of a manager hold.

        Args:
            name: the queue.
            **settings: ``max_workers``, ``executor``, ``dead_letter_queue`` and others of
                :class:`~qbridge_core.TaskManager`.

        Raises:
            ConfigurationError: there is no such setting, or the queue has some already.
        """
        self._layout.add_queue(queue_of(name, settings), self._root._layout)

    def pool(self, name: str, *, queues: Mapping[str, int], **settings: Unpack[PoolSettings]) -> None:
        """Have the tasks of several queues share their workers, by weight: urgent ones before others.

        With ``queues={"urgent": 5, "normal": 1}`` five tasks of ``urgent`` begin for one of ``normal`` while both have
        some; what one does not need the other gets. Timeouts and retries are those of each task; a queue may have a
        ``dead_letter_queue`` of its own (``queue``). A queue in no pool has workers of its own.

        Args:
            name: what errors call it.
            queues: the names of the queues, and their weights: whole numbers from 1 to 1000.
            **settings: ``max_workers``, ``executor`` and others of :class:`~qbridge_core.TaskManager`, for all of them
                together.

        Raises:
            ConfigurationError: an argument is wrong, one of the queues is in another pool, or has settings that are the
                pool's.
        """
        self._layout.add_pool(pool_of(name, queues, settings), self._root._layout)

    def include(self, other: App) -> None:
        """Take the tasks and queues of another app in, those that it gets later, too.

        From now on it has the connection and the settings of this one.

        Raises:
            ConfigurationError: it is no app, is this one, or is in one already; or both have a task of one name, or
                settings for one queue.
        """
        if not isinstance(other, App):
            raise ConfigurationError(f"include takes an App, not a {type(other).__name__}")
        if other._parent is not None or other is self._root:
            raise ConfigurationError("this app is included already; each is part of one other app at most")
        check_names(other.tasks, self._root.tasks)
        self._layout.include(other._layout, self._root._layout)
        other._parent = self
        self._included.append(other)

    @property
    def tasks(self) -> list[AppTask[Any]]:
        """Its tasks, and those of the apps that it includes."""
        return [*self._tasks.values(), *(task for other in self._included for task in other.tasks)]

    @property
    def lifespan(self) -> Lifespan | None:
        """What each worker process opens."""
        found: Lifespan | None = self._root._settings["lifespan"]
        return found

    # ------------------------------------------------------------------ sending

    @contextmanager
    def open(self, url: str | None = None, **options: object) -> Iterator[QueueClient]:
        """Be connected within this block: all threads of the process are. Yields the client.

        Without it the first message connects, to where the variable QBRIDGE_URL says.

        Args:
            url: the broker; that of QBRIDGE_URL when missing.
            **options: those of ``connect``.

        Raises:
            ConfigurationError: it is open already, there is no URL, or an option is wrong.
            The errors of ``connect``.
        """
        client = self.connect(url, **options)
        try:
            yield client
        finally:
            self.close()

    @asynccontextmanager
    async def aopen(self, url: str | None = None, **options: object) -> AsyncIterator[AsyncQueueClient]:
        """The same for ``async with``. At the end it waits for what coroutines have under way. Yields the client.

        Raises:
            The errors of ``open``.
        """
        from qbridge_core.aio.client import with_sends

        sends = self._root._connection.sends
        opening = partial(self.connect, url, **options)
        client = await sends.open(opening, lambda _: self.close(), "connecting")
        try:
            yield with_sends(client, sends)
        finally:
            await sends.drain()
            await sends.call(self.close, "disconnecting")

    def connect(self, url: str | None = None, **options: object) -> QueueClient:
        """Connect until ``close``, as ``open`` does for a block, for a program that has none to put it around.

        Raises:
            The errors of ``open``.
        """
        return self._root._connection.open(url, options)

    @property
    def is_connected(self) -> bool:
        """Whether it has a client by now."""
        return self._root._connection.is_open

    def close(self) -> None:
        """Disconnect."""
        self._root._connection.close()

    def send_many(self, messages: Iterable[TaskMessage]) -> list[str]:
        """Send messages of any of its tasks, as in ``app.send_many(send_mail.message(each) for each in mails)``.

        Those of a queue go in order and in one pipeline; delayed ones follow, one by one. All are confirmed on return.

        Returns the task ids, in order.

        Raises:
            PayloadError, ConfigurationError: one of them cannot be a message, or is of another app's task; nothing has
                been sent then.
            The errors of ``QueueClient.publish_many``: some may have been sent.
        """
        return self._root._outbox.publish_many(messages)

    async def asend_many(self, messages: Iterable[TaskMessage]) -> list[str]:
        """``send_many`` for coroutines: a thread waits for the broker. When it is cancelled, that thread goes on.

        Raises:
            The errors of ``send_many``.
        """
        return await self._root._outbox.apublish_many(messages)

    # ------------------------------------------------------------------ working

    def run_worker(
        self, queues: Sequence[str] | None = None, *, poll_timeout: float = 5.0, start_timeout: float = 0.0
    ) -> None:
        """Work until SIGTERM or Ctrl-C, as :func:`~qbridge_core.run_workers` does.

        Args:
            queues: those to work on; all that have tasks when missing.
            poll_timeout: seconds that one request for messages may wait at the broker.
            start_timeout: seconds to wait for a broker that is not up yet, where this is what connects.

        Raises:
            ConfigurationError: it is not known which broker, there are no tasks, or a queue has none.
            The errors of ``connect`` and ``run_workers``.
        """
        from qbridge_core.work.workers import run_workers

        managers = self._managers(queues, require_seconds("start_timeout", start_timeout))
        run_workers(*managers, poll_timeout=poll_timeout)

    def run_until_idle(self, timeout: float = 30.0, queues: Sequence[str] | None = None) -> RunReport:
        """Work until its queues are empty: nothing ready, in flight or delayed. For tests and scripts.

        Args:
            timeout: seconds after which to give up.
            queues: those to work on; all that have tasks when missing.

        Raises:
            IdleTimeoutError: there was work left after ``timeout`` seconds.
            ConfigurationError: as ``run_worker``.
            The errors of ``run_workers``.
        """
        from qbridge_core.app.worker import work_until_idle

        seconds = require_seconds("timeout", timeout, positive=True)
        return work_until_idle(self.managers(queues), seconds)

    def managers(self, queues: Sequence[str] | None = None) -> list[TaskManager]:
        """A :class:`~qbridge_core.TaskManager` for each queue or pool, for ``run_workers``, with others if need be.

        Args:
            queues: those to work on; all that have tasks when missing.

        Raises:
            ConfigurationError: as ``run_worker``.
        """
        return self._managers(queues, 0.0)

    def _managers(self, queues: Sequence[str] | None, start_timeout: float) -> list[TaskManager]:
        from qbridge_core.app.moving import movers_for
        from qbridge_core.app.worker import check_used, chosen, managers_for

        root = self._root
        tasks = self.tasks
        used = list(dict.fromkeys(task.queue for task in tasks))
        found = {name: root._layout.queue(name) for name in used}
        check_dead_letters(found.values())
        wanted = chosen(found, used, queues)
        pools = self._layout.pools
        check_used(pools, used)
        client = root._connection.client(start_timeout)
        managers = managers_for(client, wanted, pools, tasks, root._patience, root._settings)
        return [*managers, *movers_for(client, wanted, root._settings["grace_period"])]

    # ------------------------------------------------------------------ parts

    @property
    def _root(self) -> App:
        return self if self._parent is None else self._parent._root

    @contextmanager
    def _lent(self, client: QueueClient) -> Iterator[None]:
        """Use this client within the block, with all queues declared, and let nobody open another; for tests."""
        root = self._root
        with root._connection.lent(client):
            for queue in dict.fromkeys(task.queue for task in root.tasks):
                root._connection.declare(queue, root._layout.queue(queue).dead_letter_queue)
            yield

    def _root_outbox(self) -> Outbox:
        return self._root._outbox

    def _register(self, task: AppTask[Any]) -> AppTask[Any]:
        check_names([task], self._root.tasks)
        self._tasks[task.name] = task
        return task

    def _has_task(self, name: str) -> bool:
        return name in self._tasks or any(other._has_task(name) for other in self._included)
