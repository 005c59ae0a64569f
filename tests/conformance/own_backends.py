"""What our own backends do beyond the contract, alike: they refuse with a typed error what makes no sense."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    Delivery,
    DeliveryLostError,
    Message,
    MessageTooLargeError,
    PayloadError,
    QueueClient,
)
from qbridge_core.testing import BackendConformance
from qbridge_core.testing.base import MakeClient


class OwnBackend(BackendConformance):
    """The suite for third parties, and what is asked of our own backends only."""

    def test_g18_what_is_no_delivery_is_refused(self, client: QueueClient, queue: str) -> None:
        """Settling something else, or with something else, is an error of QBridge's, and settles nothing."""
        strangers: list[Any] = [None, b"{}", "id", 7, [], object()]
        for stranger in strangers:
            with pytest.raises(ConfigurationError):
                client.ack(stranger)
            with pytest.raises(ConfigurationError):
                client.reject(stranger)
        made_up = Delivery(b"{}", queue, tag=object())
        for settle in (client.ack, client.reject):
            with pytest.raises((ConfigurationError, DeliveryLostError)):
                settle(made_up)
        client.publish(queue, b"{}")
        delivery = self.receive_one(client, queue)
        wrong: list[dict[str, Any]] = [{"failure": "it failed"}, {"failure": ValueError()}, {"queue": 7}]
        for arguments in wrong:
            with pytest.raises(ConfigurationError):
                client.reject(delivery, **arguments)
        client.ack(delivery)

    @pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="sockets are found as Linux shows them")
    def test_disconnect_leaves_no_socket(self, make_client: MakeClient, queue: str) -> None:
        """After ``disconnect`` no connection to the broker is open, though the client is kept."""
        before = _sockets()
        client = make_client()
        client.declare(queue)
        client.send(queue, 1)
        client.ack(self.receive_one(client, queue))
        its_own = _sockets() - before
        client.disconnect()
        self.eventually(lambda: not its_own & _sockets())

    def test_g18_a_part_of_the_wrong_type_is_refused(self, client: QueueClient, queue: str) -> None:
        """A body, headers or an id of another type are errors of QBridge's in ``publish`` and ``publish_many``."""
        wrong: list[tuple[Any, Any, Any]] = [
            ("text", {}, None), (None, {}, None), ([1], {}, None), (b"", "", None), (b"", "a=b", None), (b"", [], None),
            (b"", [("a", "b")], None), (b"", 0, None), (b"", {b"a": "b"}, None), (b"", {None: "b"}, None),
            (b"", {"a": None}, None), (b"", {"a": b"b"}, None), (b"", {}, b"id"), (b"", {}, 7), (b"", {}, []),
        ]  # fmt: skip
        for body, headers, message_id in wrong:
            with pytest.raises((ConfigurationError, PayloadError)):
                client.publish(queue, body, headers=headers, message_id=message_id)
            with pytest.raises((ConfigurationError, PayloadError)):
                client.publish_many(queue, [Message(body, headers, message_id)])
        assert client.stats(queue).ready == 0
        none: Any = None  # as publish takes it
        client.publish_many(queue, [Message(b"x", none)])
        assert dict(self.receive_one(client, queue).headers) == {}

    def test_g19_what_every_worker_would_call_malformed_is_refused(self, client: QueueClient, queue: str) -> None:
        """A body over ``max_message_bytes`` is an error for its sender, however it is sent."""
        body = bytes(client.max_message_bytes + 1)
        calls: list[Callable[[], object]] = [
            lambda: client.publish(queue, body),
            lambda: client.publish_many(queue, [Message(body)]),
            lambda: client.send(queue, "x" * len(body)),
            lambda: client.send_many(queue, ["x" * len(body)]),
        ]
        for call in calls:
            with pytest.raises(MessageTooLargeError):  # the backend's own limit may be lower
                call()
        assert client.stats(queue).ready == 0


def _sockets() -> set[str]:
    """The connections over TCP that this process has, by the numbers that the kernel gives them."""
    own = set()
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # it is closed meanwhile
            own.add(str(entry.readlink()))
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/self/net/{name}").read_text().splitlines()
    ]
    return {row[9] for row in rows[1:] if len(row) > 9 and f"socket:[{row[9]}]" in own}
