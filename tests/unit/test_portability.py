"""What runs where there is no POSIX: sending and thread workers do, the rest refuses in a sentence."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.pages import ROOT

# As on Windows: these modules and functions do not exist there. The standard library, which was made for this system,
# is imported before they go.
WITHOUT_POSIX = """
import asyncio, logging, multiprocessing.managers, multiprocessing.spawn, os, random, signal, ssl, subprocess, sys
import tempfile
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for owner, names in (
    (os, ("fork", "register_at_fork", "getpgid", "killpg", "sched_getaffinity", "getuid", "waitpid", "WNOHANG")),
    (signal, ("SIGKILL", "SIGIO", "SIGUSR1", "pthread_kill", "pthread_sigmask", "sigwait", "setitimer")),
):
    for name in names:
        if hasattr(owner, name):
            delattr(owner, name)
"""

CHILD_PROCESSES = "qbridge_core.execute.processes"
"""Its modules are imported for `executor="process"` only, which is refused before."""


def run_without_posix(program: str) -> str:
    """What a program prints on a Python without the modules and functions of POSIX."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_POSIX + program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_sending_and_thread_workers_need_no_posix(kind: str) -> None:
    """A worker whose handlers run in threads or as coroutines does its work without any POSIX-only module."""
    program = f"""
from qbridge_core import TaskManager, connect
{kind} handler(payload):
    if payload == "bad":
        raise ValueError("x")
with connect("memory://") as client:
    client.declare("q", "q.dead")
    client.send_many("q", ["good", "bad"])
    print(TaskManager(client, handler, "q", "q.dead", max_retries=1).run_until_idle())
"""
    assert run_without_posix(program) == "1 succeeded, 1 retried, 1 dead-lettered (failed)"


def test_a_worker_program_starts_and_stops_without_posix() -> None:
    """`start` in the main thread, with its signal handlers, ends at `stop` without any POSIX-only module."""
    program = """
from qbridge_core import TaskManager, connect
with connect("memory://") as client:
    def handler(payload):
        print(payload)
        manager.stop()
    manager = TaskManager(client, handler, "q", "q.dead")
    client.declare("q", "q.dead")
    client.send("q", "done")
    manager.start()
"""
    assert run_without_posix(program) == "done"


@pytest.mark.parametrize("package", [path.name for path in sorted(ROOT.glob("qbridge_*"))])
def test_the_packages_need_no_posix(package: str) -> None:
    """Core and backends can be imported, each module at any depth, without POSIX-only modules; child processes not."""
    program = f"""
import importlib, pkgutil, {package}
for found in pkgutil.walk_packages({package}.__path__, "{package}."):
    if not found.name.startswith("{CHILD_PROCESSES}."):
        importlib.import_module(found.name)
        print(found.name)
"""
    source = ROOT / package / "src"
    files = [path.relative_to(source).with_suffix("") for path in (source / package).rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in files} - {package}
    assert set(run_without_posix(program).split()) == {n for n in names if not n.startswith(f"{CHILD_PROCESSES}.")}


def test_processes_refuse_in_a_sentence_without_posix() -> None:
    """`executor="process"` and the `Supervisor` are a ConfigurationError that says what works instead."""
    program = """
from qbridge_core import ConfigurationError, Supervisor, TaskManager, connect
with connect("memory://") as client:
    for make in (
        lambda: TaskManager(client, print, "q", "q.dead", executor="process"),
        lambda: Supervisor("somewhere:build", 2),
    ):
        try:
            make()
        except ConfigurationError as exc:
            print(exc)
"""
    first, second = run_without_posix(program).splitlines()
    assert first.startswith("executor='process' needs a POSIX system")
    assert second.startswith("Supervisor needs a POSIX system")
    assert "work everywhere" in first
