"""A private PostgreSQL: a cluster of its own that is made at the first start, and trusts everybody on this machine."""

from __future__ import annotations

import glob
import os
import pwd
import re
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from support.brokers import Broker, BrokerError, find_program

_PLACES: Final = "/usr/lib/postgresql/*/bin/postgres"
_USER: Final = "qbridge"
_PROTOCOL: Final = 196_608  # 3.0
_MAKE_AND_RUN: Final = """
cluster=$1; programs=$2; shift 2
[ -e "$cluster/PG_VERSION" ] ||
    "$programs/initdb" -D "$cluster" --username=qbridge --auth=trust --encoding=UTF8 --locale=C --no-sync || exit 1
exec "$programs/postgres" -D "$cluster" "$@"
"""
_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "16MB",
}


def find_programs() -> str | None:
    """Return the folder of the server's programs, the newest version's; Debian keeps them off PATH."""
    found = sorted(glob.glob(_PLACES), key=lambda path: [int(part) for part in re.findall(r"\d+", path)])
    chosen = found[-1] if found else find_program("postgres")
    return str(Path(chosen).parent) if chosen else None


class PostgreSQLBroker(Broker):
    """The server refuses to run as root: then it belongs to the user ``nobody``, to whom its folder is given."""

    boot_timeout = 60.0

    def __init__(self, base_dir: Path | str) -> None:
        super().__init__(base_dir)
        if _is_root():
            nobody = pwd.getpwnam("nobody")
            os.chown(self.base_dir, nobody.pw_uid, nobody.pw_gid)

    @classmethod
    def available(cls) -> bool:
        """Whether the server is installed."""
        return find_programs() is not None

    @property
    def url(self) -> str:
        """The URL of its database; it stays the same over restarts."""
        return f"postgresql://{_USER}@{self.host}:{self.port}/postgres"

    def is_ready(self) -> bool:
        """Whether it lets clients in."""
        return postgresql_answers(self.url)

    def kill(self) -> None:
        """End it without any order, by the signal after which it leaves no shared memory behind."""
        if self.running:
            os.kill(self._pid, signal.SIGQUIT)
            try:
                self._reap(10)
            except subprocess.TimeoutExpired:
                super().kill()

    def _server_command(self) -> list[str]:
        programs = find_programs()
        if programs is None:
            raise BrokerError("PostgreSQL is not installed")
        settings = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        run = ["sh", "-c", _MAKE_AND_RUN, "sh", str(self.base_dir / "cluster"), programs, "-p", str(self.port)]
        return [*_as_nobody(), *run, *settings]


def _is_root() -> bool:
    return os.geteuid() == 0


def _as_nobody() -> list[str]:
    if not _is_root():
        return []
    group = pwd.getpwnam("nobody").pw_gid
    # Changing the user takes away what ends it with its guard.
    return ["setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups", "--pdeathsig=KILL"]


def postgresql_answers(url: str) -> bool:
    """Whether a PostgreSQL at the URL lets its user in, or at least asks for a password."""
    return _greeting(url)[:1] == b"R"


def postgresql_version(url: str) -> str:
    """What the PostgreSQL at the URL calls itself when it greets; "" when it does not tell."""
    found = re.search(rb"server_version\0(\d[^ \0]*)", _greeting(url))
    return f"PostgreSQL {found[1].decode()}" if found else ""


def _greeting(url: str) -> bytes:
    """What the server says until it waits for the client; nothing when there is no server."""
    parts = urlsplit(url)
    words = ("user", parts.username or _USER, "database", parts.path.strip("/") or "postgres", "")
    packet = struct.pack("!i", _PROTOCOL) + b"".join(word.encode() + b"\0" for word in words)
    said = b""
    try:
        with socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5432), timeout=2) as connection:
            connection.sendall(struct.pack("!i", len(packet) + 4) + packet)
            while not _waits(said) and (more := connection.recv(65_536)):
                said += more
            connection.sendall(b"X\0\0\0\4")  # goodbye
    except OSError:
        return said
    return said


def _waits(said: bytes) -> bool:
    """Whether the server is ready for a query, or wants a password."""
    return b"Z\0\0\0\5I" in said or (said[:1] == b"R" and len(said) >= 9 and said[5:9] != bytes(4))
