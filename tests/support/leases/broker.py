"""The lease broker's process: started, stopped, suspended, killed, and wiped."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path

from support.brokers import Broker

PASSWORD = "s3cret-of-the-lease-broker"
_SERVER = Path(__file__).with_name("server.py")


class LeaseBroker(Broker):
    """A lease broker with its own file and port."""

    boot_timeout = 20.0

    @classmethod
    def available(cls) -> bool:
        """It needs Python only."""
        return True

    @property
    def url(self) -> str:
        """The URL; it stays the same over restarts."""
        return f"lease://tester:{PASSWORD}@{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Whether it answers."""
        with suppress(OSError), socket.create_connection((self.host, self.port), timeout=2) as connection:
            connection.sendall(json.dumps({"op": "hello", "password": ""}).encode() + b"\n")
            return b"denied" in connection.recv(100)
        return False

    def forget(self) -> None:
        """Lose everything, and come back: what a broker without a disk does."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)
        self.start()

    @property
    def _data(self) -> Path:
        return self.base_dir / "data"

    def _server_command(self) -> list[str]:
        self._data.mkdir(exist_ok=True)
        return [sys.executable, "-I", "-S", str(_SERVER), str(self.port), str(self._data / "messages.db"), PASSWORD]
