"""Handlers for child processes, which must be able to import them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
import tracemalloc
from contextvars import ContextVar
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from qbridge_core import HandlerTimeout, Reject, Retry, Snooze, TaskContext, current_task
from qbridge_core.logs import JsonFormatter


def note(path: str, text: object) -> None:
    """Append a line to a file; lines of several processes never overwrite each other."""
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def notes(path: Path | str) -> list[str]:
    """The lines of a file that ``note`` wrote."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


class Gone(Exception):
    """An exception that says its number."""


class Unpicklable(Exception):
    """An exception that no pickle can carry, and that cannot be made again from its arguments."""

    def __init__(self, *, number: int) -> None:
        super().__init__(f"number {number}")
        self.held = open(os.devnull)  # noqa: SIM115

    def __reduce__(self) -> Any:
        raise TypeError("not this one")


def note_record(path: str) -> None:
    """Note a record that is logged here as ``qbridge worker --log-format json`` shows it."""
    note(path, JsonFormatter().format(logging.makeLogRecord({"msg": "from a handler", "order": 7})))


async def note_record_on_loop(path: str) -> None:
    """The same."""
    note_record(path)


def work(payload: dict[str, Any]) -> None:
    """Do what the payload asks for, after noting the task and the process in its ``file``."""
    if "file" in payload:
        note(payload["file"], f"{payload.get('id', '-')} {os.getpid()}")
    DEEDS[payload.get("do", "nothing")](payload)


async def leave_a_thread_behind(payload: object) -> None:
    """Give up a call in a thread that never ends."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(threading.Event().wait), 0.05)


async def work_later(payload: dict[str, Any]) -> None:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    if payload.get("do") == "sleep":
        await asyncio.sleep(3600)
    work(payload)


def note_with_context(payload: str, task: TaskContext) -> None:
    """Note what the second argument says of the task."""
    in_time = 1 < task.remaining < 60
    note(payload, f"{task.task_id} {task.attempt} {dict(task.headers)} {task.cancelled} {in_time}")


async def note_with_context_later(payload: str, task: TaskContext) -> None:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    note_with_context(payload, task)


_tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def note_and_set_tenant(payload: str) -> None:
    """Note what a context variable has, and set it."""
    note(payload, _tenant.get())
    _tenant.set("somebody")


def note_when_forgotten(payload: dict[str, Any]) -> None:
    """Note when the memory of this process is as it was with its first payload, then do what the payload asks for."""
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    else:
        limit = len(payload["filler"]) // 4  # what is traced began with the first payload
        threading.Thread(target=_note_when_below, args=(limit, payload["file"]), daemon=True).start()
    DEEDS[payload["do"]](payload)


def _note_when_below(limit: int, path: str) -> None:
    while tracemalloc.get_traced_memory()[0] > limit:
        time.sleep(0.02)
        gc.collect()
    note(path, "forgotten")


def raise_the_payload(payload: str) -> None:
    """Fail with the payload in the text."""
    raise ValueError(f"bad card {payload}")


async def raise_the_payload_later(payload: str) -> None:
    """The same as a coroutine."""
    await asyncio.sleep(0)
    raise ValueError(f"bad card {payload}")


def _segfault(payload: dict[str, Any]) -> None:
    ctypes.string_at(0)


def _kill(payload: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _kill_the_worker(payload: dict[str, Any]) -> None:
    """As a container's memory limit does: the worker dies, and the child that ran this with it."""
    os.kill(int(os.environ["WORKER"]), signal.SIGKILL)
    time.sleep(3600)


def _exit(payload: dict[str, Any]) -> None:
    os._exit(payload.get("status", 3))


def _sleep(payload: dict[str, Any]) -> None:
    time.sleep(3600)


def _hold_the_interpreter(payload: dict[str, Any]) -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def _clean_up(payload: dict[str, Any]) -> None:
    try:
        time.sleep(3600)
    except HandlerTimeout:
        note(payload["file"], f"cancelled {current_task().cancelled}")
        raise


def _stubborn(payload: dict[str, Any]) -> None:
    while True:
        try:
            time.sleep(3600)
        except HandlerTimeout:
            note(payload["file"], "no")


def _wait_for_a_file(payload: dict[str, Any]) -> None:
    while not Path(payload["until"]).exists():
        time.sleep(0.01)
    note(payload["file"], f"finished {os.getpid()}")


def _start_a_process(payload: dict[str, Any]) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    note(payload["file"], f"grandchild {process.pid}")
    time.sleep(3600)


def _fork_and_die(payload: dict[str, Any]) -> None:
    if os.fork() == 0:
        time.sleep(payload["seconds"])
        os._exit(0)
    os._exit(3)


def _fork(payload: dict[str, Any]) -> None:
    """Fork, and return in every process that there is then."""
    fork = ctypes.CDLL(None).fork if payload.get("in C") else os.fork
    for _ in range(2):
        fork()
    note(payload["file"], f"forked {os.getpid()}")


def _fork_and_leave(payload: dict[str, Any]) -> None:
    """Fork, let the copy end as its programmer may have wanted it, and note how it ended."""
    copy = os.fork()
    if copy == 0:
        note(payload["file"], "copy")
        leave: dict[str, Any] = {"exit": sys.exit, "raise": int, "wait": time.sleep}
        leave[payload["how"]](payload["argument"])
    if payload["how"] == "wait":
        while "copy" not in notes(payload["file"]):
            time.sleep(0.01)
        os.kill(copy, signal.SIGTERM)
    note(payload["file"], f"status {os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1])}")


def _speak_twice(payload: dict[str, Any]) -> None:
    """Report the end of this run to the worker, as a copy of this process could; the true report will follow."""
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(descriptor)).st_mode):
                Connection(os.dup(int(descriptor))).send_bytes(json.dumps(["done", 1, 0]).encode())


def _describe(payload: dict[str, Any]) -> None:
    task = current_task()
    known = [task.task_id, task.queue, task.attempt, dict(task.headers), task.cancelled, 0 < task.remaining <= 10]
    note(payload["file"], json.dumps(known))
    if task.attempt == 1:
        raise Gone("once more")


def _raise_unpicklable(payload: dict[str, Any]) -> None:
    raise Unpicklable(number=7)


def _raise(payload: dict[str, Any]) -> None:
    raise {"Gone": Gone, "OSError": OSError, "SystemExit": SystemExit, "HandlerTimeout": HandlerTimeout}[
        payload["what"]
    ](payload.get("text", ""))


def _reject(payload: dict[str, Any]) -> None:
    raise Reject("no such customer")


def _retry(payload: dict[str, Any]) -> None:
    raise Retry("later", after=0.01) from Gone("because")


def _snooze(payload: dict[str, Any]) -> None:
    if len(notes(payload["file"])) == 1:
        raise Snooze(0.01)


def _swell(payload: dict[str, Any]) -> None:
    _memory.append(b"x" * payload["bytes"])


_memory: list[bytes] = []
DEEDS = {
    "nothing": lambda payload: None,
    "segfault": _segfault,
    "kill": _kill,
    "kill the worker": _kill_the_worker,
    "exit": _exit,
    "sleep": _sleep,
    "hold the interpreter": _hold_the_interpreter,
    "clean up": _clean_up,
    "be stubborn": _stubborn,
    "wait for a file": _wait_for_a_file,
    "start a process": _start_a_process,
    "fork and die": _fork_and_die,
    "fork": _fork,
    "fork and leave": _fork_and_leave,
    "speak twice": _speak_twice,
    "describe": _describe,
    "raise unpicklable": _raise_unpicklable,
    "raise": _raise,
    "reject": _reject,
    "retry": _retry,
    "snooze": _snooze,
    "swell": _swell,
}


set_up: set[str] = set()
"""What a main program has prepared for its handlers; a process that imports this module only has nothing."""


def work_where_set_up(payload: dict[str, Any]) -> None:
    """Work, but only in a process where somebody has set it up; elsewhere do ``without``."""
    if not set_up:
        note(payload["file"], f"{payload.get('id', '-')} {os.getpid()}")
        DEEDS[payload["without"]](payload)
    else:
        work(payload)


def forget_to_await(payload: dict[str, Any]) -> Any:
    """Return a coroutine that nobody runs."""
    return work_later(payload)


class Service:
    """A handler with a state, which the child processes get a copy of."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, payload: object) -> None:
        """Note the payload."""
        note(self.path, payload)
