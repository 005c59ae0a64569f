"""Processes that use a client of the backend under test, and may be killed."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from qbridge_core import QBridgeError, QueueClient

if TYPE_CHECKING:
    from qbridge_core.testing.base import Backend

_FOR_EVER: Final = 3600.0
_PROGRAM: Final = "import sys; sys.path[:] = {path!r}; from qbridge_core.testing.children import main; main({task!r})"


class Child:
    """A process with a client that the suite's ``create_client`` made there; ``with`` kills it at the end.

    Args:
        suite: its class is imported in the process.
        url: what ``create_client`` gets.
        action: a function of this module: ``action(client, *arguments)``, which may print one line.
        arguments: strings and numbers.
    """

    def __init__(self, suite: Backend, url: str, action: Callable[..., None], *arguments: object) -> None:
        kind = type(suite)
        module = sys.modules[kind.__module__]
        task = {
            "module": kind.__module__,
            "file": getattr(module, "__file__", None),
            "class": kind.__qualname__,
            "options": dict(suite.options),
            "url": url,
            "action": action.__name__,
            "arguments": arguments,
        }
        program = _PROGRAM.format(path=[os.path.abspath(entry) for entry in sys.path], task=json.dumps(task))
        self._process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def tell(self) -> None:
        """Let it begin; until then it only makes its client."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The line that it prints; "" when it has ended before."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def hold(client: QueueClient, queue: str, count: int = 1) -> None:
    """Receive some messages, say how many, and hold them."""
    held = 0
    while held < count and (received := len(client.receive(queue, count - held, 30.0))):
        held += received
    print(held, flush=True)  # noqa: T201 - the parent reads it
    time.sleep(_FOR_EVER)


def leave(client: QueueClient, queue: str) -> None:
    """Publish one message, say so, and wait to be killed."""
    client.declare(queue)
    client.publish(queue, b"left")
    print("left", flush=True)  # noqa: T201 - the parent reads it
    time.sleep(_FOR_EVER)


def look(client: QueueClient, queue: str) -> None:
    """Say how many messages are ready."""
    print(client.stats(queue).ready, flush=True)  # noqa: T201 - the parent reads it


def main(text: str) -> None:
    """What the process does."""
    task = json.loads(text)
    suite: Any = _import(task["module"], task["file"])
    for name in task["class"].split("."):
        if name == "<locals>":
            raise SystemExit("define the class of your tests at the top of its module: child processes import it")
        suite = getattr(suite, name)
    backend = suite()
    if task["options"] != dict(backend.options):
        backend = backend.with_options(task["options"])
    try:
        client = backend.create_client(task["url"])
        sys.stdin.readline()
        globals()[task["action"]](client, *task["arguments"])
    except QBridgeError as exc:
        print(type(exc).__name__, flush=True)  # noqa: T201 - the parent reads it


def _import(name: str, file: str | None) -> object:
    """The module, whatever pytest's import mode is."""
    if name in sys.modules and name != "__main__":
        return sys.modules[name]
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = None
    if module is not None and (file is None or getattr(module, "__file__", None) == file):
        return module
    if file is None:
        raise SystemExit(f"the module {name} cannot be imported in a child process")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
