"""QBridge's own logging: nothing that a program's logging does stops a thread of ours."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import TaskManager, current_task
from qbridge_core.errors import ConfigurationError
from qbridge_core.execute.processes.program import _await
from qbridge_core.execute.threadpool import ThreadPool
from qbridge_core.runtime.logqueue import LogQueue
from qbridge_core.runtime.logs import flush, logger
from qbridge_core.runtime.logtexts import escaped
from qbridge_memory import MemoryClient
from support.wait import wait_for


class Records(logging.Handler):
    """Keeps the records; ``hold`` makes it wait, as a full pipe does."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.free = threading.Event()
        self.free.set()

    def emit(self, record: logging.LogRecord) -> None:
        """Wait, then keep it."""
        self.free.wait(60)
        self.records.append(record)

    @property
    def text(self) -> str:
        """All records as a file would show them."""
        return "\n".join(map(logging.Formatter("%(levelname)s %(message)s").format, self.records))


@pytest.fixture
def records() -> Iterator[Records]:
    """What QBridge's loggers bring to a handler."""
    handler, parent = Records(), logging.getLogger("qbridge")
    level = parent.level
    parent.addHandler(handler)
    parent.setLevel(logging.DEBUG)
    yield handler
    handler.free.set()
    parent.removeHandler(handler)
    parent.setLevel(level)
    assert flush(30), "the log thread is stuck"


@pytest.fixture
def factory() -> Iterator[Callable[[Any], None]]:
    """Install a LogRecord factory for this test."""
    before = logging.getLogRecordFactory()
    yield logging.setLogRecordFactory
    flush(30)
    logging.setLogRecordFactory(before)


def raises(*args: object, **kwargs: object) -> Any:
    """A piece of a program's logging that is broken."""
    raise KeyError("task_id")


def all_kinds(client: MemoryClient) -> str:
    """Run a task that succeeds and one that is retried and dead-lettered; say what became of them."""

    def handler(payload: object) -> None:
        if payload == "bad":
            raise ValueError("no")

    client.send_many("q", ["ok", "bad", "ok"])
    report = TaskManager(client, handler, "q", "d", max_retries=1, max_workers=2).run_until_idle(20)
    return f"{report.succeeded} {report.retried} {report.dead_lettered}"


def test_g20_a_cookbook_log_record_factory_sees_the_task_of_our_records(
    client: MemoryClient, records: Records, factory: Callable[[Any], None]
) -> None:
    """A factory that sets ``task_id`` from ``current_task`` stops nothing, and sees the task of each record."""
    plain = logging.getLogRecordFactory()

    def with_task(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = plain(*args, **kwargs)
        try:
            record.task_id = current_task().task_id
        except ConfigurationError:
            record.task_id = "-"
        return record

    factory(with_task)
    assert all_kinds(client) == "2 1 1"
    about = [record for record in records.records if hasattr(record, "qbridge_task_id")]
    assert len(about) == 4
    assert all(record.task_id == record.qbridge_task_id for record in about)


@pytest.mark.parametrize("where", ["factory", "filter", "handler filter", "emit"])
def test_g20_logging_that_raises_stops_nothing(
    client: MemoryClient, records: Records, factory: Callable[[Any], None], where: str
) -> None:
    """Whatever part of a program's logging raises, the tasks are accounted for, and stderr says so once."""
    manager_log = logging.getLogger("qbridge.manager")
    if where == "factory":
        factory(raises)
    elif where == "filter":
        manager_log.addFilter(raises)
    elif where == "handler filter":
        records.addFilter(raises)
    else:
        records.emit = raises  # type: ignore[method-assign]
    try:
        assert all_kinds(client) == "2 1 1"
    finally:
        manager_log.removeFilter(raises)
        records.removeFilter(raises)
    assert flush(10)
    assert (where == "factory") == ("dead-lettered" in records.text) or where == "filter"


@pytest.mark.parametrize("lock", ["handler", "module", "emit"])
def test_g20_logging_that_blocks_stops_nothing(client: MemoryClient, records: Records, lock: str) -> None:
    """While a handler waits or a lock of logging is held, tasks run, the manager stops, and no record is lost."""
    taken, free = threading.Event(), threading.Event()

    def hold() -> None:
        held: Any = records.lock if lock == "handler" else logging._lock  # type: ignore[attr-defined]
        with held:
            logging.getLogger("qbridge").manager._clear_cache()  # type: ignore[attr-defined]
            taken.set()
            free.wait(60)

    gc.collect()  # logging takes its lock when a handler of an earlier test is collected, in whatever thread
    if lock == "emit":
        records.free.clear()
    else:
        threading.Thread(target=hold).start()
        assert taken.wait(10)
    began = time.monotonic()
    try:
        assert all_kinds(client) == "2 1 1"
        assert time.monotonic() - began < 5
    finally:
        free.set()
        records.free.set()
    assert flush(10)
    assert "dead-lettered" in records.text


@pytest.mark.parametrize("where", ["task", "callback", "forgotten future"])
def test_g20_logging_that_blocks_does_not_block_the_loop_of_the_handlers(
    client: MemoryClient, records: Records, where: str
) -> None:
    """An error that asyncio has to report is logged elsewhere, by asyncio's own logger, and the coroutines go on."""
    asyncios = logging.getLogger("asyncio")
    asyncios.addHandler(records)
    loops: list[asyncio.AbstractEventLoop] = []

    async def fails() -> None:
        raise ValueError("forgotten")

    async def handler(payload: int) -> None:
        loop = asyncio.get_running_loop()
        loops.append(loop)
        if payload:
            return
        records.free.clear()
        if where == "task":
            task: Any = loop.create_task(fails())
            await asyncio.wait([task])
            del task
        elif where == "callback":
            loop.call_soon(raises)
        else:
            loop.create_future().set_exception(ValueError("forgotten"))
        gc.collect()
        await asyncio.sleep(0)

    try:
        client.send_many("q", range(4))
        assert TaskManager(client, handler, "q", "d", max_workers=1).run_until_idle(20).succeeded == 4
        assert len(set(loops)) == 1, "the loop was blocked, and another one took its place"
        records.free.set()
        wait_for(lambda: any(record.name == "asyncio" for record in records.records), 10)
    finally:
        records.free.set()
        flush(30)
        asyncios.removeHandler(records)
    (record,) = (record for record in records.records if record.name == "asyncio")
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def test_g20_logging_that_blocks_does_not_block_a_child_process(records: Records) -> None:
    """What asyncio has to report of a coroutine in a child process is logged in another thread too."""
    asyncios = logging.getLogger("asyncio")
    asyncios.addHandler(records)
    ended = threading.Event()

    async def handler(payload: object) -> None:
        del payload
        asyncio.get_running_loop().call_soon(raises)
        await asyncio.sleep(0)

    def run() -> None:
        _await(ThreadPool(), handler, None)
        ended.set()

    records.free.clear()
    try:
        threading.Thread(target=run, daemon=True).start()
        assert ended.wait(10)
    finally:
        records.free.set()
        flush(30)
        asyncios.removeHandler(records)
    assert [record.name for record in records.records] == ["asyncio"]


def test_a_record_names_the_place_and_time_that_logged(records: Records) -> None:
    """Function, line, file, thread and time are those of the caller, not those of the thread that writes."""
    records.free.clear()
    log = logger("qbridge.test")
    log.info("first")
    began = time.time()

    def call() -> None:
        log.warning("%s", "second")

    thread = threading.Thread(target=call, name="the-caller")
    thread.start()
    thread.join()
    ended = time.time()
    records.free.set()
    assert flush(10)
    record = records.records[-1]
    assert (record.getMessage(), record.funcName, record.filename) == ("second", "call", "test_logs.py")
    assert record.lineno == call.__code__.co_firstlineno + 1
    assert (record.threadName, record.thread, record.process) == ("the-caller", thread.ident, os.getpid())
    assert began <= record.created <= ended


def test_what_does_not_fit_is_counted(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a handler blocks the queue stays bounded; once it goes on, a record says how many were dropped."""
    monkeypatch.setattr("qbridge_core.runtime.logqueue.CAPACITY", 200)
    records.free.clear()
    log = logger("qbridge.test")
    for number in range(1_000):
        log.info("record %d", number)
    records.free.set()
    wait_for(lambda: "were dropped" in records.text, 10)
    assert flush(10)
    dropped = [record.args[0] for record in records.records if "were dropped" in record.msg]  # type: ignore[index]
    kept = [record for record in records.records if record.msg.startswith("record")]
    assert 200 <= len(kept) <= 202
    assert sum(dropped) == 1_000 - len(kept)  # type: ignore[arg-type]


def test_waiting_records_keep_few_payloads_alive(records: Records) -> None:
    """What waits for a blocked handler holds tracebacks, and with them payloads, of the first hundred records only."""
    records.free.clear()
    log, alive = logger("qbridge.test"), []

    class Payload:
        def __del__(self) -> None:
            alive.pop()

    def fail() -> None:
        payload = Payload()
        alive.append(None)
        raise ValueError(f"no {type(payload)}")

    for _ in range(500):
        try:
            fail()
        except ValueError as exc:
            log.exception("failed: %s", exc, exc_info=exc)  # noqa: TRY401
    assert len(alive) <= 101
    records.free.set()
    assert flush(10)
    assert records.text.count("failed: no <class") == 500
    assert "(ValueError" in records.text or "without its traceback" in records.text


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b[2J", "\u2028", "\x85", "\x00", "\u202e", "\ud800"])
def test_no_log_line_can_be_forged(records: Records, character: str) -> None:
    """Control characters in ids, queues, messages and exceptions arrive escaped, in tracebacks too."""
    text = f"x{character}ERROR forged"
    log = logger("qbridge.test")
    error = ValueError(text)
    error.add_note(text)
    try:
        raise error
    except ValueError:
        log.exception("failed %s %r %s", text, text, error, extra={"qbridge_task_id": text})
    assert flush(10)
    (record,) = records.records
    assert character not in record.getMessage() + record.qbridge_task_id
    lines = records.text.splitlines()
    assert lines[0].startswith("ERROR failed ")
    assert all(line.startswith("  ") for line in lines[1:])
    assert "\x1b" not in records.text


@pytest.mark.parametrize("text", ["plain", "ü 漢 🎉", "'quoted' \\ 100 %"])
def test_readable_texts_stay_as_they_are(text: str) -> None:
    """Only what cannot be printed is escaped."""
    assert escaped(text) == text


def test_an_exception_whose_text_cannot_be_read_is_logged_by_its_type(records: Records) -> None:
    """An exception that raises when it is shown does not cost the record."""

    class Unreadable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logger("qbridge.test").error("failed: %s", Unreadable(), exc_info=Unreadable())
    assert flush(10)
    assert "Unreadable" in records.records[0].getMessage()


def test_a_forked_process_logs_with_a_thread_of_its_own(tmp_path: Any) -> None:
    """After a fork the child writes its records; what waited in the parent is written once. Nothing is lost at exit."""
    program = """
import logging, os, sys, warnings
from qbridge_core.runtime.logs import flush, logger
warnings.simplefilter("ignore")
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
log = logger("qbridge.test")
for number in range(50):
    log.info("parent %d", number)
child = os.fork()
if child == 0:
    log.info("child")
    raise SystemExit(0 if flush(10) else 1)
assert os.waitpid(child, 0)[1] == 0
log.info("end")
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.split("\n")
    assert lines.count("child") == lines.count("end") == 1
    assert [line for line in lines if line.startswith("parent")] == [f"parent {number}" for number in range(50)]


def test_without_a_thread_records_are_written_in_place(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has no thread left, logging still says so, and its errors still stop nothing."""

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("qbridge_core.runtime.logs._queue", LogQueue(lambda count: None))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    logger("qbridge.test").warning("written at once")
    assert [record.getMessage() for record in records.records] == ["written at once"]
    records.addFilter(raises)
    logger("qbridge.test").warning("not written")
    records.removeFilter(raises)


def test_a_blocked_handler_does_not_keep_a_program_from_ending(tmp_path: Any) -> None:
    """The last records are waited for, but not for longer than half a second, and then for no lock of a handler."""
    program = """
import logging, threading
from qbridge_core.runtime.logs import logger
class Blocked(logging.Handler):
    def emit(self, record):
        threading.Event().wait()
logging.getLogger().addHandler(Blocked())
logger("qbridge.test").error("never written")
"""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert time.monotonic() - began < 15
