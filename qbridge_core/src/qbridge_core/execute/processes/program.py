"""The program of a child process that runs handlers: one task after the other, until its worker says stop or is gone.

It hears of tasks, cancellations and the stop over a socket, in a thread, while the main thread runs the handler. What
it reports are texts and numbers in JSON: nothing that a handler made is ever unpickled by the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import math
import os
import pickle
import queue
import resource
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from types import FrameType
from typing import Any, Final, NoReturn

from qbridge_core.contract.headers import DUE_AT, HISTORY, REPLAYS
from qbridge_core.contract.message import Delivery
from qbridge_core.execute.executor import is_coroutine_function, own_code, refuse_unstarted
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.execute.processes.childlifespan import ChildLifespan
from qbridge_core.execute.processes.startmark import StartMark
from qbridge_core.execute.spawned import JsonLink, main_program_imported
from qbridge_core.execute.threadpool import ThreadPool
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.forks import OneProcess, flush_output
from qbridge_core.runtime.logs import flush, log_errors_of
from qbridge_core.task.context import HandlerTimeout, current_run, current_state
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.routing import Router
from qbridge_core.task.run import Run
from qbridge_core.task.runhooks import RunHooks
from qbridge_core.task.terms import Policy, Terms
from qbridge_core.task.verdict import Verdict, judge

READY: Final = "ready"
BROKEN: Final = "broken"
DONE: Final = "done"
RAISED: Final = "raised"
CANCEL: Final = b"cancel"
STOP: Final = b"stop"
_MOST_STUCK: Final = 10
_NUMBER_BYTES: Final = 8
TIME_TOGETHER: Final = 0.01
"""Seconds after which a child begins none of the tasks any more that it was given together."""

_Parts = tuple[bytes, str, dict[str, Any], str | None, int, str, float, dict[str, Any], int, str]
_SEEN: Final = (DUE_AT, HISTORY, REPLAYS)
"""What of QBridge's headers a handler can see through its context."""


def packed(number: int, runs: Sequence[Run]) -> bytes:
    """Tasks on their way into a child process: the number of the first, which the report builds on, and their parts.

    The deadline travels as the seconds until then, for the clocks of two processes need not agree on a point in time.
    """
    now = monotonic()
    return number.to_bytes(_NUMBER_BYTES) + pickle.dumps([_parts(run, now) for run in runs])


def _parts(run: Run, now: float) -> _Parts:
    delivery = run.delivery
    meta = {name: delivery.meta[name] for name in _SEEN if name in delivery.meta} if delivery.meta else {}
    return (
        delivery.body, delivery.queue, dict(delivery.headers), delivery.message_id, delivery.attempts, run.task_id,
        run.deadline - now, meta, delivery.sent_at_ms, "" if callable(delivery.kind) else delivery.kind,
    )  # fmt: skip


def _unpacked(parts: _Parts, policy: Policy) -> Run:
    """The run, as the child process sees it: what time is left of it is all that it has."""
    body, queue, headers, message_id, attempts, task_id, remaining, meta, sent, kind = parts
    delivery = Delivery(body, queue, headers, message_id, attempts, meta=meta, sent=sent, kind=kind)
    return Run(delivery, task_id, Terms(remaining, policy))


def main(descriptor: int, lifeline: int, shared: int) -> None:
    """Load what must be run and work, until told to stop. The arguments are inherited descriptors."""
    _end_with_parent(lifeline)
    link = JsonLink(descriptor)
    os.register_at_fork(after_in_child=link.close)  # what a handler forks must not speak in our name
    mark = StartMark(shared)
    os.close(shared)
    with _telling(link, "it could not load the handler"):
        server = _load(link, mark)
    server.obey()
    with _telling(link, "it could not enter the lifespan"):
        server.open()
    with contextlib.suppress(HandlerTimeout):  # it came when the handler had just ended
        try:
            server.serve()
        except OSError:  # of the link: what a handler raises is its failure
            _end_group()
    server.close()


@contextlib.contextmanager
def _telling(link: JsonLink, what: str) -> Iterator[None]:
    """Tell the worker what ends this process before it works."""
    try:
        yield
    except BaseException as exc:
        link.say(BROKEN, f"{what}: {type(exc).__name__}: {exc}")
        raise SystemExit(1) from exc


def _end_with_parent(lifeline: int) -> None:
    """Have the kernel end this process group when the worker is gone, even while C code holds the interpreter.

    The worker holds the other end of this pipe. When the worker dies, the kernel signals SIGIO, which ends a process.
    Other systems than Linux ignore it by default, or do not send it; there the thread that listens must do. A worker
    that has died before is seen at once: nothing is imported any more.
    """
    with contextlib.suppress(OSError):
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgid(0))
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
        end = select.poll()
        end.register(lifeline, 0)
        if end.poll(0):
            os._exit(1)


def _end_group() -> NoReturn:
    """The worker is gone, and the broker gives its tasks to another one: end, with what the handler has started.

    The kernel signals the whole group only as long as one of it holds the pipe, which what a handler starts does not
    inherit: it would live on where this process sees the end of the connection first, and ends.
    """
    with contextlib.suppress(OSError):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def _load(link: JsonLink, mark: StartMark) -> _Server:
    """Import the main program, then the handler."""
    preparation, program, watch_memory = pickle.loads(link.receive_bytes())  # noqa: S301 - from the worker
    with main_program_imported(preparation):
        handler, policy, lifespan, run_hooks, formats = pickle.loads(program)  # noqa: S301 - as above
    return _Server(link, mark, handler, policy, watch_memory, lifespan, run_hooks, formats)


def _nothing_around(run: Run) -> contextlib.AbstractContextManager[None]:
    """No plugin wants anything around a run."""
    del run
    return contextlib.nullcontext()


class _Server:
    """Runs the tasks that come."""

    def __init__(
        self,
        link: JsonLink,
        mark: StartMark,
        handler: Callable[[Any], Any],
        policy: Policy,
        watch_memory: bool,
        lifespan: Lifespan | None,
        run_hooks: RunHooks | None,
        formats: Formats | None = None,
    ) -> None:
        self._around = _nothing_around if run_hooks is None else run_hooks.around
        self._link = link
        self._say = link.say
        self._mark = mark
        self._threads = ThreadPool()
        self._lifespan = (
            None if lifespan is None else ChildLifespan(lifespan, self._threads, lambda: self._tasks.put(None))
        )
        self._owns = own_code(handler).includes
        self._has_coroutines = is_coroutine_function(handler)
        router = handler if isinstance(handler, Router) else None
        self._reader = TaskReader(formats, router, Terms(math.inf, policy), sys.maxsize, again=True)
        self._handler = handler
        if self._has_coroutines:
            run = functools.partial(_await, self._threads) if self._lifespan is None else self._lifespan.run
            self._handler = functools.partial(run, handler)
        self._policy = policy
        self._watch_memory = watch_memory
        self._tasks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._run: Run | None = None
        self._cancelled = False

    def obey(self) -> None:
        """From now on signals and words of the worker are heard."""
        previous = {number: signal.signal(number, self._on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        os.register_at_fork(after_in_child=functools.partial(_restore, previous))
        threading.Thread(target=self._listen, name="qbridge-listener", daemon=True).start()

    def open(self) -> None:
        """Enter the lifespan, if there is one."""
        if self._lifespan is not None:
            current_state.set(self._lifespan.open(on_loop=self._has_coroutines))

    def close(self) -> None:
        """Leave the lifespan."""
        if self._lifespan is not None:
            self._lifespan.close()
            flush()

    def serve(self) -> None:
        """Work until told to stop."""
        self._say(READY)
        while (tasks := self._tasks.get()) is not None:
            number, verdict = self._work_off(tasks)
            memory = memory_in_use() if self._watch_memory else 0
            self._say(*((DONE, number, memory) if verdict is None else (RAISED, number, memory, verdict.as_json())))
            del tasks, verdict  # an idle process holds nothing of its last task
            if self._threads.stuck() > _MOST_STUCK:
                return  # another process, without them, takes its place

    def _work_off(self, tasks: bytes) -> tuple[int, Verdict | None]:
        """Run tasks that came together, until one fails or they take too long; the number of the last, and its verdict.

        Those behind it the worker has again. When it sees one of them at work for longer than they may take together,
        it need not wait for the report: the mark is set before the look at the clock, so none begins after that one.
        """
        number = int.from_bytes(tasks[:_NUMBER_BYTES])
        over_at = monotonic() + TIME_TOGETHER  # before the mark
        self._mark.set(number)  # before anything that the task could break
        try:
            each = pickle.loads(memoryview(tasks)[_NUMBER_BYTES:])  # noqa: S301 - from the worker
        except BaseException as exc:  # noqa: BLE001 - there may be no memory for it
            return number, judge(exc, self._policy)
        last = number + len(each) - 1
        for parts in each:
            # In a context of its own: what one task sets there is nothing to the next one.
            verdict = copy_context().run(self._handle, parts)
            flush_output()
            if verdict is not None or number == last:
                return number, verdict
            self._mark.set(number + 1)
            if monotonic() > over_at or self._cancelled:
                self._mark.set(number)
                break
            number += 1
        return number, None

    def _handle(self, parts: _Parts) -> Verdict | None:
        policy: Policy = self._policy
        try:
            run = self._run = _unpacked(parts, self._policy)
            current_run.set(run)
            task, terms = self._reader.read(run.delivery)
            policy = terms.policy
            with self._around(run):
                if self._cancelled:
                    raise HandlerTimeout
                with OneProcess():
                    refuse_unstarted(self._handler(task.payload))
        except BaseException as exc:  # noqa: BLE001 - whatever a handler raises is its failure
            self._run = None
            return judge(exc, policy, self._owns)
        finally:
            self._run = None
        return None

    def _listen(self) -> None:
        """Hear what the worker says, in a thread."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # it shall interrupt the main thread
        while True:
            try:
                message = self._link.receive_bytes()
            except (EOFError, OSError):
                _end_group()
            if message == CANCEL:
                self._cancel()
            else:
                self._tasks.put(None if message == STOP else message)
            del message  # the next one may be long in coming

    def _cancel(self) -> None:
        self._cancelled = True
        run = self._run
        if run is not None:
            run.cancelled = True
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the handler if the worker wants it to. Other senders, systemd for one, mean the worker.

        Unlike in a worker's thread the exception may come anywhere, in a library too: this process runs nothing else
        afterwards and is killed within a second, so that a lock that is left held harms nobody.
        """
        del number, frame
        if self._cancelled and self._run is not None:
            raise HandlerTimeout


def _await(threads: ThreadPool, handler: Callable[[Any], Any], payload: Any) -> object:
    """Run a coroutine function, its blocking calls in these threads."""

    async def call() -> object:
        with OneProcess():  # here too: a copy that ended the loop would disturb the original's
            return await handler(payload)

    with asyncio.Runner() as runner:
        threads.serve(runner.get_loop())
        log_errors_of(runner.get_loop())
        result = runner.run(call())
    threads.wait()  # asyncio would too, but also for those that hang and that nobody waits for any more
    return result


def _restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """Let signals end a process that a handler has forked."""
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def memory_in_use() -> int:
    """Bytes of this process that are in memory (its highest value so far where the system does not tell)."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return highest if sys.platform == "darwin" else highest * 1024
