"""A command of an image, and what it must do as process 1."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from dockerfile.steps import HOME, Stage
from support.wait import wait_for

STOPPED_WITHIN: Final = 35.0
PATIENCE: Final = 60.0
ORPHAN: Final = """
import os, time

if (child := os.fork()) == 0:
    if os.fork() == 0:
        print(f"orphan {os.getpid()}.", flush=True)
        time.sleep(0.5)
    os._exit(0)
os.waitpid(child, 0)
time.sleep(3600)
"""
"""A program whose child leaves a process behind: it becomes a child of process 1, and a zombie if nobody looks."""


class Container:
    """A command of the image as process 1 of a namespace of its own.

    Args:
        image: what was built.
        words: the command.
    """

    def __init__(self, image: Stage, words: list[str]) -> None:
        self.log = HOME / "log"
        command = image.inside(*image.entrypoint, *words, user=image.user)
        with self.log.open("wb") as log:
            self._outer = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", *command], stdout=log, stderr=log, cwd="/"
            )

    @property
    def first(self) -> int:
        """The process id of its process 1, as the host sees it."""
        (pid,) = children(self._outer.pid)
        return pid

    def numbers(self) -> set[str]:
        """The process ids of all that is in it, as they themselves see them."""
        found: set[str] = set()
        for pid in descendants(self._outer.pid):
            with contextlib.suppress(OSError):  # one that has just ended
                found.add(status_of(pid)["NSpid"].split()[-1])
        return found

    def status(self) -> dict[str, str]:
        """What the kernel says of process 1."""
        return status_of(self.first)

    def named(self, name: str) -> bool:
        """Whether process 1 is there, and this program: what starts it replaces itself step by step."""
        self._check()
        return bool(children(self._outer.pid)) and self.status()["Name"] == name

    def says(self, text: str) -> bool:
        """Whether it has printed something."""
        self._check()
        return text in self.log.read_text()

    def stop(self) -> tuple[int, float]:
        """Stop it as an engine does: its exit status, and how long that took."""
        began = time.monotonic()
        os.kill(self.first, signal.SIGTERM)
        return self._outer.wait(STOPPED_WITHIN), time.monotonic() - began

    def _check(self) -> None:
        assert self._outer.poll() is None, f"it has ended: {self.log.read_text()}"

    def close(self) -> None:
        """Kill it, if it still runs."""
        self._outer.kill()
        self._outer.wait()


def try_worker(image: Stage, url: str) -> None:
    """The image's own command runs a task, without any right, and stops when it is told to."""
    image.environment["QBRIDGE_URL"] = url
    container = Container(image, image.command)
    try:
        wait_for(lambda: container.named("tini"), PATIENCE, "tini is process 1")
        status = container.status()
        assert status["NSpid"].split()[-1] == "1"
        assert set(status["Uid"].split()) == {image.user.partition(":")[0]}
        assert int(status["CapEff"], 16) == 0
        send = image.inside("qbridge", "send", "emails", '{"to": "ann@example.org"}', user=image.user)
        wait_for(lambda: subprocess.run(send, check=False, cwd="/").returncode == 0, PATIENCE, "a task is sent")
        wait_for(lambda: container.says("sent to ann@example.org"), PATIENCE, "the task runs")
        code, seconds = container.stop()
        assert code == 0, container.log.read_text()
        print(f"a task has run as user {image.user}; SIGTERM ended it within {seconds:.1f} s with status 0")
    finally:
        container.close()


def try_orphans(image: Stage) -> None:
    """Whatever a task leaves behind is reaped."""
    container = Container(image, ["python", "-c", ORPHAN])
    try:
        wait_for(lambda: container.says("orphan "), PATIENCE, "there is an orphan")
        number = container.log.read_text().partition("orphan ")[2].partition(".")[0]
        wait_for(lambda: number not in container.numbers(), PATIENCE, "the orphan is gone")
        print("an orphan was reaped")
    finally:
        container.close()


def status_of(pid: int) -> dict[str, str]:
    """What the kernel says of a process."""
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())


def children(pid: int) -> list[int]:
    """Of a process; none of one that has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """All processes below one, zombies as well."""
    return [each for child in children(pid) for each in (child, *descendants(child))]
