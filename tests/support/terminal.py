"""A terminal with a program in it, and what can be read on its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

import pyte

from support.wait import wait_for


class Terminal:
    """Runs a program with a terminal as its input, output and error output, until ``close``.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        variables: its environment.
        size: columns and lines.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, variables: Mapping[str, str], size: tuple[int, int] = (120, 30)
    ) -> None:
        self._screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self._screen)
        self.written = b""
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        self.before = termios.tcgetattr(theirs)
        environment = {name: variables[name] for name in variables.keys() - {"COLUMNS", "LINES"}}
        # A leader of a session that opens a terminal has it as its own: Ctrl-C arrives.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(theirs), *command],
            stdin=subprocess.DEVNULL, cwd=folder, start_new_session=True,
            env=environment | {"TERM": "xterm-256color"},
        )  # fmt: skip
        self._theirs = theirs  # kept open, so that what the program wrote last can be read when it has ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def text(self) -> str:
        """What the screen shows now, lines without the blanks at their ends."""
        self._read()
        return "\n".join(line.rstrip() for line in self._screen.display).strip("\n")

    @property
    def cells(self) -> list[list[tuple[str, str]]]:
        """The lines of the screen: each character with its style, in Rich's words."""
        self._read()
        lines = (self._screen.buffer[line] for line in range(self._screen.lines))
        return [[(line[column].data, _style(line[column])) for column in range(self._screen.columns)] for line in lines]

    @property
    def shows_cursor(self) -> bool:
        """Whether there is a cursor."""
        self._read()
        return not self._screen.cursor.hidden

    @property
    def settings(self) -> list[object]:
        """How the terminal is set up now; ``before`` is how it was."""
        return termios.tcgetattr(self._theirs)

    def wait_for(self, *texts: str, timeout: float = 30.0) -> str:
        """Wait until the screen shows all these; return what it shows."""
        deadline = time.monotonic() + timeout
        while not all(text in (shown := self.text) for text in texts):
            assert time.monotonic() < deadline, f"no {texts} in\n{shown}"
            time.sleep(0.02)
        return shown

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Change the size."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._screen.resize(lines, columns)

    def ended(self, timeout: float = 30.0) -> int:
        """Wait for the end of the program; return its exit code."""

        def ended() -> bool:
            self._read()  # it may wait for room
            return self.process.poll() is not None

        wait_for(ended, timeout, f"it does not end: {self._screen.display}")
        return self.process.wait()

    def close(self) -> None:
        """Kill what still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            data = os.read(self._ours, 65536)
            self.written += data
            self._stream.feed(data)


def _style(cell: pyte.screens.Char) -> str:
    colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
    return f"{'bold ' if cell.bold else ''}{colour}".strip() or "none"
