"""Forks a process for each command that is wanted of it: ``python warm_program.py DESCRIPTOR``, a Unix socket.

A request brings the command's standard streams, and a pipe for its process id and its exit code.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pkgutil
import runpy
import socket
import sys
from typing import Any

import qbridge_core.cli

_BACKENDS = ("qbridge_memory.client", "qbridge_rabbitmq.client", "qbridge_redis.client")
_LONGEST = 1 << 18


def main() -> None:
    """Serve until the socket is closed. It returns in the process of a command alone, which is to run then."""
    commands = pkgutil.walk_packages(qbridge_core.cli.__path__, "qbridge_core.cli.")
    for name in (*_BACKENDS, *(found.name for found in commands)):
        importlib.import_module(name)
    channel = socket.socket(fileno=int(sys.argv[1]))
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 4)
        if not request:
            os._exit(0)
        if os.fork() == 0:
            channel.close()
            _begin(json.loads(request), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass


def _begin(request: dict[str, Any], stdin: int, stdout: int, stderr: int, ended: int) -> None:
    """Return in a process of the command's own; this one tells how that ends."""
    if pid := os.fork():
        os.write(ended, f"{pid}\n".encode())
        os.write(ended, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())
        os._exit(0)
    for number, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, number)
    for descriptor in (stdin, stdout, stderr, ended):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["variables"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv[1:] = request["args"]


if __name__ == "__main__":
    main()
    runpy.run_module("qbridge_core", run_name="__main__", alter_sys=True)
