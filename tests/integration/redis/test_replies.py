"""Several replies at once are judged each by itself: one that is fine says nothing of another."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from integration.redis.helpers import MakeClient
from qbridge_core import BrokerBlockedError, Message, PublishUnconfirmedError, QBridgeError
from qbridge_redis.protocol.scripts import REPLAY
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


class DyingNode(Node):
    """A node that dies with the first message that it gets."""

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionAbortedError):
            super()._serve(connection)

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"XADD":
            raise ConnectionAbortedError
        return super()._answer(command)


class NodeWithLetters(Node):
    """One with dead letters of too many fields for a script: each is copied, and then deleted, by itself."""

    LETTERS = (b"1-0", b"2-0", b"3-0")

    def __init__(self, *rounds: list[bytes]) -> None:
        self.deleted: list[bytes] = []
        super().__init__(*rounds)

    def _answer(self, command: list[bytes]) -> bytes:
        if command[0] == b"XDEL":
            self.deleted.append(command[-1])
            return b":1\r\n"
        if command[0] == b"XPENDING":
            return b"*0\r\n"
        if command[0] == b"XREVRANGE":
            return _array(_letter(self.LETTERS[-1]))
        if command[0] == b"XRANGE":
            return _array(*map(_letter, self.LETTERS))
        if command[:2] == [b"EVALSHA", REPLAY.sha.encode()]:
            return _array(_array(), _array(*map(_text, self.LETTERS)))
        return super()._answer(command)


def _text(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


def _array(*items: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


def _letter(entry_id: bytes) -> bytes:
    return _array(_text(entry_id), _array(_text(b"body"), _text(entry_id)))


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    """Nodes to close in the end."""
    made: list[Node] = []
    yield made
    for node in made:
        node.close()


def test_a_connection_that_ends_too_early_is_called_lost_and_not_late(
    make_client: MakeClient, nodes: list[Node]
) -> None:
    """It is told at once, so no text speaks of the seconds that there were."""
    node = DyingNode()
    nodes.append(node)
    client = make_client(f"redis://127.0.0.1:{node.port}")
    with pytest.raises(PublishUnconfirmedError, match="the connection was lost before the confirmation for 'q'"):
        client.publish("q", b"x", timeout=30.0)


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


@pytest.mark.parametrize("at", [0, 2])
def test_g13_a_letter_whose_copy_is_refused_after_a_redirection_stays(
    make_client: MakeClient, nodes: list[Node], at: int
) -> None:
    """Letters whose copies were redirected and then stored are deleted; the refused one and those behind it are not."""
    node = NodeWithLetters([MOVED, OK] * at, [MOVED, FULL])
    nodes.append(node)
    client = make_client(f"redis://127.0.0.1:{node.port}")
    with pytest.raises(BrokerBlockedError):
        client.replay("dead", target="q")
    assert node.deleted == list(node.LETTERS[:at])
