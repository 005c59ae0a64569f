"""HandlerTimeout: where it is raised in a handler, and where it never is."""

from __future__ import annotations

import functools
import importlib
import io
import logging
import queue
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from qbridge_core import ConfigurationError, HandlerTimeout, TaskManager, connect
from qbridge_core.execute.interrupt.owncode import OwnCode
from support.wait import wait_for

monitored = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.11 has no sys.monitoring")
LATE = 0.05


def work(handler: Callable[[Any], object], payloads: Any, **options: Any) -> TaskManager:
    """Run tasks that may take 50 ms, without retries."""
    with connect("memory://") as client:
        client.declare("q", "d")
        client.send_many("q", payloads)
        manager = TaskManager(
            client, handler, "q", "d", **{"task_timeout": LATE, "max_retries": 0, "max_workers": 8, **options}
        )
        manager.run_until_idle(30)
        return manager


def test_g10_a_timeout_leaves_no_lock_of_a_library_held() -> None:
    """Handlers that do nothing but log are interrupted, and afterwards everybody can still log."""
    handler = logging.StreamHandler(io.StringIO())
    log = logging.getLogger("chatty")
    log.propagate, log.level = False, logging.INFO
    log.addHandler(handler)
    late = threading.Semaphore(0)

    def chatty(_: object) -> None:
        until = time.monotonic() + 10 * LATE
        try:
            while time.monotonic() < until:
                time.sleep(0.001)
                log.info("working")
        finally:
            late.release()

    work(chatty, range(40))
    assert all(late.acquire(timeout=10) for _ in range(40))
    lock = handler.lock
    assert lock is not None
    assert lock.acquire(timeout=5)
    lock.release()
    log.removeHandler(handler)


empty: queue.Queue[object] = queue.Queue()
never = threading.Event()


def _parse() -> None:
    urllib.parse.urlparse("amqp://user@host:5672/vhost?heartbeat=10")


def _wait() -> None:
    never.wait(0.001)


def _get() -> None:
    with suppress(queue.Empty):
        empty.get(timeout=0.001)


@monitored
@pytest.mark.parametrize("step", [_parse, _wait, _get], ids=["urllib", "Event.wait", "Queue.get"])
@pytest.mark.parametrize("form", ["block", "line"])
def test_g10_a_loop_over_a_library_is_interrupted(step: Callable[[], None], form: str) -> None:
    """A handler that spends its time in a library is caught when it comes back to its own code."""
    ends: list[str] = []

    def handler(_: object) -> None:
        until = time.monotonic() + 20
        try:
            if form == "block":
                while time.monotonic() < until:
                    step()
            else:
                while time.monotonic() < until: step()  # fmt: skip # noqa: E701
        except HandlerTimeout:
            ends.append("interrupted")

    work(handler, [1])
    assert wait_for(lambda: ends, 10) == ["interrupted"]


@monitored
def test_g10_a_call_that_took_too_long_is_cut_where_it_was_made() -> None:
    """The exception is raised in the line of the call, so that ``try`` and ``suppress`` around it see it."""
    ends: list[str] = []

    def handler(_: object) -> None:
        try:
            time.sleep(4 * LATE)
        except HandlerTimeout:
            ends.append("caught")

    work(handler, [1])
    wait_for(lambda: ends == ["caught"])


LIBRARY = """
import threading
import time

lock = threading.Lock()
condition = threading.Condition()
uses = 0


def with_lock():
    global uses
    lock.acquire()
    try:
        uses += 1
        time.sleep(0.001)
    finally:
        lock.release()


def with_condition():
    global uses
    with condition:
        uses += 1
        condition.wait(0.001)
        condition.notify_all()
"""


@pytest.mark.parametrize("name", ["with_lock", "with_condition"])
def test_g10_a_timeout_leaves_no_lock_of_ones_own_making_held_in_a_library(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handlers are interrupted between their calls of a library that takes a lock or a condition, and never in them."""
    (tmp_path / "locking_library.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "locking_library", raising=False)
    library: Any = importlib.import_module("locking_library")
    use, held = getattr(library, name), library.lock if name == "with_lock" else library.condition
    ends: list[str] = []

    def handler(_: object) -> None:
        until = time.monotonic() + 10 * LATE
        try:
            while time.monotonic() < until:
                use()
                sum(range(2000))  # some time of its own, where a sampled thread can be met
        except HandlerTimeout:
            ends.append("interrupted")
        else:
            ends.append("its own")

    work(handler, range(24))
    wait_for(lambda: len(ends) == 24, 20)
    assert held.acquire(timeout=5), "a timeout has left it held"
    held.release()
    if sys.version_info >= (3, 12):
        assert "interrupted" in ends


class Guard:
    """A lock that takes its time when it is left."""

    def __init__(self) -> None:
        self.entered = 0
        self.left = 0

    def __enter__(self) -> None:
        time.sleep(2 * LATE)
        self.entered += 1

    def __exit__(self, *_: object) -> None:
        time.sleep(2 * LATE)
        self.left += 1


def _slow_exit(guard: Guard) -> None:
    with guard:
        pass
    guard.left += 0


def _slow_finally(guard: Guard) -> None:
    try:
        guard.entered += 1
    finally:
        time.sleep(2 * LATE)
        guard.left += 1


@contextmanager
def _guarded(guard: Guard) -> Iterator[None]:
    guard.entered += 1
    try:
        yield
    finally:
        time.sleep(2 * LATE)
        guard.left += 1


def _slow_generator(guard: Guard) -> None:
    with _guarded(guard):
        pass


@pytest.mark.parametrize("use", [_slow_exit, _slow_finally, _slow_generator])
def test_g10_what_the_handler_cleans_up_itself_is_finished(use: Callable[[Guard], None]) -> None:
    """A timeout cuts neither ``__exit__`` nor ``finally`` short, in the handler's own code too."""
    guard = Guard()
    ended = threading.Event()

    def handler(_: object) -> None:
        try:
            use(guard)
            for _turn in range(1000):
                time.sleep(0.001)
        finally:
            ended.set()

    work(handler, [1])
    assert ended.wait(10)
    assert (guard.entered, guard.left) == (1, 1)


def test_g10_nothing_is_raised_with_interrupt_off() -> None:
    """``interrupt=False`` lets a late handler run to its end; it is fenced and its slot replaced all the same."""
    ends: list[str] = []

    def handler(payload: int) -> None:
        for _ in range(4 * payload):
            time.sleep(LATE / 2)
        ends.append("its own")

    report = work(handler, [1, 0], max_workers=1, interrupt=False).report()
    assert (report.succeeded, report.dead_lettered) == (1, 1)
    wait_for(lambda: len(ends) == 2)


def test_g18_interrupt_is_true_or_false() -> None:
    """Anything else is refused."""
    with connect("memory://") as client, pytest.raises(ConfigurationError, match="interrupt must be True or False"):
        TaskManager(client, print, "q", "d", interrupt="no")  # type: ignore[arg-type]


def test_a_run_in_time_is_not_interrupted_with_a_late_one() -> None:
    """The same code in another thread goes on, even where it is watched for the late one."""
    over = threading.Event()
    interrupted: list[float] = []

    def handler(payload: float) -> None:
        until = time.monotonic() + payload
        try:
            while time.monotonic() < until and not over.is_set():
                never.wait(0.001)
        except HandlerTimeout:
            interrupted.append(payload)

    report = work(handler, [20.0, *[LATE / 2] * 20], task_timeout=4 * LATE, max_workers=3).report()
    over.set()
    assert report.succeeded == 20
    assert interrupted in ([], [20.0])


@monitored
def test_nothing_is_watched_when_nothing_is_late() -> None:
    """The number taken from ``sys.monitoring`` is given back, so that a profiler finds its own free."""
    monitoring: Any = vars(sys)["monitoring"]
    over = threading.Event()

    def is_watched() -> bool:
        return any(monitoring.get_tool(number) == "qbridge" for number in range(6))

    def handler(_: object) -> None:
        over.wait(10)

    work(handler, [1])
    wait_for(is_watched)
    over.set()
    wait_for(lambda: not is_watched(), 10)


@monitored
def test_a_late_run_is_abandoned_where_others_have_all_of_the_monitoring() -> None:
    """With no number left in ``sys.monitoring`` the handler is not interrupted, and nothing else happens."""
    monitoring: Any = vars(sys)["monitoring"]
    taken = [number for number in range(6) if monitoring.get_tool(number) is None]
    for number in taken:
        monitoring.use_tool_id(number, "test")
    over = threading.Event()

    def handler(payload: bool) -> None:
        while payload and not over.is_set():
            never.wait(0.001)

    try:
        report = work(handler, [True, False], max_workers=1).report()
        assert (report.succeeded, report.dead_lettered) == (1, 1)
    finally:
        over.set()
        for number in taken:
            monitoring.free_tool_id(number)


# ---------------------------------------------------------------- whose code it is


def frame_of(module: str) -> FrameType:
    """A frame in a module of this name."""
    spaces: dict[str, Any] = {"__name__": module}
    exec("import sys\nframe = sys._getframe()", spaces)
    frame: FrameType = spaces["frame"]
    return frame


def in_module(module: str) -> Callable[[object], None]:
    """A function of a module of this name."""

    def function(_: object) -> None:
        pass

    function.__module__ = module
    return function


def _decorated(function: Callable[[object], None]) -> Callable[[object], None]:
    @functools.wraps(function, assigned=())
    def wrapper(payload: object) -> None:
        function(payload)

    wrapper.__module__ = "library.decorators"
    return wrapper


class _Framework:
    __module__ = "framework.base"

    def handle(self, _: object) -> None:
        """Handle."""


class _Mine(_Framework):
    __module__ = "shop.tasks"

    def __call__(self, _: object) -> None:
        """Handle."""


@pytest.mark.parametrize(
    "handler",
    [
        in_module("shop.tasks"),
        functools.partial(functools.partial(in_module("shop.tasks"))),
        _decorated(in_module("shop.tasks")),
        functools.partial(_decorated(_decorated(in_module("shop.tasks")))),
        _Mine(),
        _Mine().handle,
        functools.lru_cache(in_module("shop.tasks")),
    ],
    ids=["function", "partial", "decorated", "both", "object", "inherited method", "cached"],
)
def test_own_code_is_that_of_the_top_level_package(handler: object) -> None:
    """It is found below partial objects and decorators, for objects and their methods; libraries are not own code."""
    own = OwnCode(handler)
    for module in ("shop", "shop.tasks", "shop.deep.inside"):
        assert own.includes(frame_of(module))
    for module in (
        "shopping",
        "framework.base",
        "library.decorators",
        "logging",
        "qbridge_core.work.worker",
        "functools",
    ):
        assert not own.includes(frame_of(module))


def test_a_package_with_a_name_like_ours_is_own_code() -> None:
    """What begins with ``qbridge`` may be anybody's."""
    own = OwnCode(in_module("qbridge_shop.tasks"))
    assert own.includes(frame_of("qbridge_shop.models"))
    assert not own.includes(frame_of("qbridge_redis.client"))


@pytest.mark.parametrize("handler", [print, [].append, queue.Queue().put, in_module("logging")])
def test_the_standard_library_is_nobodys_own_code(handler: object) -> None:
    """A handler out of it is never interrupted."""
    own = OwnCode(handler)
    for module in ("builtins", "queue", "threading", "logging"):
        assert not own.includes(frame_of(module))


@pytest.mark.parametrize("handlers_in", ["__main__", "plain_tasks"])
@pytest.mark.parametrize("installed", [False, True])
def test_the_files_of_a_program_belong_together(
    handlers_in: str, installed: bool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside a script its directory is own code, unless distributions are installed there; what lies below is not."""
    modules = {
        "__main__": {"__file__": f"{tmp_path}/main.py", "__spec__": None},
        "plain_tasks": {"__file__": f"{tmp_path}/plain_tasks.py"},
        "plain_package": {
            "__file__": f"{tmp_path}/plain_package/__init__.py",
            "__path__": [f"{tmp_path}/plain_package"],
        },
        "driver": {"__file__": f"{tmp_path}/.venv/site-packages/driver.py"},
    }
    for name, attributes in modules.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**attributes))  # type: ignore[arg-type]
    if installed:
        (tmp_path / "driver-1.0.dist-info").mkdir()
    own = OwnCode(in_module(handlers_in))
    assert own.includes(frame_of(handlers_in))
    assert own.includes(frame_of("plain_package.models")) is not installed
    assert not own.includes(frame_of("driver"))


def test_a_module_run_by_its_name_belongs_to_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``python -m shop.worker`` the handlers in ``__main__`` are in the package ``shop``."""
    main = SimpleNamespace(__spec__=SimpleNamespace(name="shop.worker"), __file__="/opt/shop/worker.py")
    monkeypatch.setitem(sys.modules, "__main__", main)  # type: ignore[arg-type]
    own = OwnCode(in_module("__main__"))
    assert own.includes(frame_of("shop.models"))
    assert own.includes(frame_of("__main__"))
    assert not own.includes(frame_of("driver"))


LEAKING = """
import os, resource, threading
from qbridge_core import HandlerTimeout, TaskManager, connect

held, interrupted = [], threading.Event()

def leaks(task):
    try:
        while True:
            try:
                held.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                pass
    except HandlerTimeout:
        for descriptor in held:
            os.close(descriptor)
        interrupted.set()
        raise

with connect("memory://") as client:
    client.declare("q", "d")
    client.send("q", 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with TaskManager(client, leaks, "q", "d", max_workers=1, task_timeout=0.5, max_retries=0):
        print(interrupted.wait(20.0))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_g10_a_handler_that_leaks_descriptors_is_interrupted() -> None:
    """What is needed for that is there before anything is late: nothing can be loaded any more by then."""
    done = subprocess.run([sys.executable, "-c", LEAKING], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr
