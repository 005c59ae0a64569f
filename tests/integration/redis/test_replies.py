"""Several replies at once are judged each by itself: one that is fine says nothing of another."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from integration.redis.helpers import MakeClient
from qbridge_core import BrokerBlockedError, Message, QBridgeError
from support.brokers import free_port

OK, MOVED, NIL = b"+1-0\r\n", b"-MOVED 1 127.0.0.1:1\r\n", b"$-1\r\n"
FULL = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"


class Node:
    """A node of a cluster that is being resharded and is short of memory: its replies to XADD are given."""

    def __init__(self, *rounds: list[bytes]) -> None:
        self.port = free_port()
        self.bodies: list[bytes] = []
        self._replies = [reply for replies in rounds for reply in replies]
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as stream:
            while head := stream.readline():
                parts = []
                for _ in range(int(head[1:])):
                    parts.append(stream.read(int(stream.readline()[1:]) + 2)[:-2])
                stream.write(self._answer(parts))
                stream.flush()

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"XADD":
            self.bodies.append(command[-1])
            return self._replies.pop(0) if self._replies else OK
        return b":1\r\n" if command[0] == b"EVALSHA" else b"+OK\r\n"


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Nodes to close in the end."""
    made: list[Node] = []
    yield made
    for node in made:
        node.close()


@pytest.mark.parametrize("bad", [FULL, NIL], ids=["full", "missing"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_g1_a_refusal_between_redirections_is_not_taken_for_published(
    make_client: MakeClient, nodes: list[Node], bad: bytes, at: int
) -> None:
    """What was refused is raised or published again, and never counts as published because another is redirected."""
    replies = [MOVED, MOVED]
    replies.insert(at, bad)
    nodes.append(Node([MOVED] * 3, replies))
    client = make_client(f"redis://127.0.0.1:{nodes[0].port}")
    messages = [Message(b"%d" % i) for i in range(3)]
    error: QBridgeError | None = None
    try:
        client.publish_many("q", messages)
    except QBridgeError as exc:
        error = exc
    if bad is FULL:
        assert isinstance(error, BrokerBlockedError)
    else:
        assert error is None
        assert all(nodes[0].bodies.count(message.body) == 3 for message in messages)
