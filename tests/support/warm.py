"""Runs the command ``qbridge`` in processes that need not import it: most of what a short command takes is that."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

_PROGRAM: Final = Path(__file__).with_name("warm_program.py")


class WarmCommand:
    """A program that has imported the command and the drivers, and forks a process for each run. Thread-safe.

    The process has the arguments, the folder, the variables and the streams that it is given, and ends as any other. It
    is not for what starts Python again, or changes what Python reads at its start.
    """

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._program = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno())],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            )  # fmt: skip

    def run(
        self, args: Sequence[str], stdin: str, folder: Path, variables: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run it and return how it has ended.

        Raises:
            subprocess.TimeoutExpired: it has not, and was killed.
        """
        request = json.dumps({"args": args, "folder": str(folder), "variables": dict(variables)})
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(stdin.encode())
            given.seek(0)
            ours, theirs = os.pipe()
            with open(ours, encoding="ascii") as ended:
                try:
                    descriptors = [given.fileno(), out.fileno(), err.fileno(), theirs]
                    socket.send_fds(self._channel, [request.encode()], descriptors)
                finally:
                    os.close(theirs)
                pid = int(ended.readline())
                if not select.select([ended], [], [], timeout)[0]:
                    os.kill(pid, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(list(args), timeout)
                code = int(ended.readline())
            return subprocess.CompletedProcess(list(args), code, _all(out), _all(err))

    def close(self) -> None:
        """End the program."""
        self._channel.close()
        self._program.wait(30)


def _all(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n")
