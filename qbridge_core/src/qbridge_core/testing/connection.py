"""Connecting, disconnecting, and what happens to calls in between."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from qbridge_core import Delivery, NotConnectedError, QueueClient, UnknownOptionError, connect
from qbridge_core.testing.base import WAIT, Backend, MakeClient, disconnect_in_time, eventually, receive_one


class ConnectionTests(Backend):
    """``connect``, ``disconnect``, ``connected``, options."""

    def test_connected_tells_whether_the_client_is_connected(self, client: QueueClient) -> None:
        """``connected`` follows ``connect`` and ``disconnect``, and both may be called twice."""
        assert client.connected
        client.connect()
        assert client.connected
        client.disconnect()
        assert not client.connected
        client.disconnect()
        client.connect()
        assert client.connected

    def test_g18_calls_on_a_disconnected_client_say_so(self, client: QueueClient, queue: str) -> None:
        """After ``disconnect`` every call raises NotConnectedError instead of waiting or doing nothing."""
        client.send(queue, 1)
        delivery = receive_one(client, queue)
        client.disconnect()
        for call in (
            lambda: client.publish(queue, b"x"),
            lambda: client.receive(queue, 1, 0.1),
            lambda: client.ack(delivery),
            lambda: client.reject(delivery),
            lambda: client.stats(queue),
            lambda: client.declare(queue),
        ):
            with pytest.raises(NotConnectedError):
                call()

    def test_disconnect_ends_a_blocked_receive(self, client: QueueClient, queue: str) -> None:
        """A ``receive`` that waits in another thread ends when the client is disconnected."""
        ended = threading.Event()

        def wait() -> None:
            with suppress(NotConnectedError):
                client.receive(queue, 1, 300.0)
            ended.set()

        threading.Thread(target=wait, daemon=True).start()
        assert not ended.wait(0.2), "receive did not wait for a message"
        disconnect_in_time(client)
        assert ended.wait(WAIT), "receive still blocks after disconnect"

    def test_concurrent_disconnects_and_acks_end(self, client: QueueClient, queue: str) -> None:
        """Closing from several threads while others settle neither hangs nor leaks a foreign error."""
        client.send_many(queue, range(20))
        deliveries: list[Delivery] = client.receive(queue, 20, WAIT)
        errors: list[BaseException] = []

        def ack(delivery: Delivery) -> None:
            try:
                client.ack(delivery)
            except NotConnectedError:
                pass
            except BaseException as exc:
                errors.append(exc)

        def disconnect() -> None:
            try:
                client.disconnect()
            except BaseException as exc:
                errors.append(exc)

        threads = [threading.Thread(target=ack, args=(d,), daemon=True) for d in deliveries]
        threads[5:5] = [threading.Thread(target=disconnect, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
        assert not any(thread.is_alive() for thread in threads), "a call hangs after a concurrent disconnect"
        assert not errors, f"an error crossed the boundary: {errors}"

    def test_disconnect_leaves_no_thread(self, make_client: MakeClient, queue_name: str) -> None:
        """A disconnected client leaves no thread of its own behind."""
        before = set(threading.enumerate())
        client = make_client()
        client.declare(queue_name)
        client.send(queue_name, 1)
        client.ack(receive_one(client, queue_name))
        client.disconnect()
        eventually(lambda: not set(threading.enumerate()) - before, message="threads are left after disconnect")

    def test_g18_an_unknown_option_is_an_error_that_names_the_known_ones(self, broker_url: str) -> None:
        """An option that does not exist is refused before anything is connected."""
        if not self.url and broker_url == "":
            pytest.skip("this suite creates its clients without a URL")
        with pytest.raises(UnknownOptionError, match=r"no_such_option.*known options"):
            connect(broker_url, no_such_option=1)
