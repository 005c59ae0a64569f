"""A client in the hands of many: threads of its process, and children that were forked from it."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from typing import Final, cast

import pytest

from qbridge_core import Delivery, DeliveryLostError, Message, NotConnectedError, QueueClient
from qbridge_core.testing.base import Backend, Call, a_failure

_SECONDS: Final = 5.0


class SharingTests(Backend):
    """Calls that come at the same time, and from where they must not come."""

    def test_concurrent_disconnects_and_acks_end(self, client: QueueClient, queue: str) -> None:
        """Closing from several threads while others settle neither hangs nor leaks a foreign error."""
        client.send_many(queue, range(20))
        deliveries: list[Delivery] = client.receive(queue, 20, self.wait)
        errors: list[BaseException] = []

        def ack(delivery: Delivery) -> None:
            try:
                client.ack(delivery)
            except (NotConnectedError, DeliveryLostError):  # it went back while the client left
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
            thread.join(self.wait)
        assert not any(thread.is_alive() for thread in threads), "a call hangs after a concurrent disconnect"
        assert not errors, f"an error crossed the boundary: {errors}"

    def test_a_client_works_while_it_receives(self, client: QueueClient, queue: str) -> None:
        """All other calls work, and several queues can be waited for, while a ``receive`` of the same client blocks."""
        other, third, fourth = (f"{queue}-{number}" for number in (2, 3, 4))
        for name in (other, fourth):
            client.declare(name)
        client.publish_many(queue, [Message(b"acked"), Message(b"rejected"), Message(b"back")])
        acked, rejected, back = self.receive_all(client, queue, 3)
        client.declare(third)
        here, there = Call(lambda: client.receive(queue, 1, 300.0)), Call(lambda: client.receive(other, 1, 300.0))
        any_of_one = Call(lambda: client.receive_any({fourth: 1}, 300.0))
        assert not here.ended(0.2)
        calls: list[Callable[[], object]] = [
            lambda: client.stats(queue),
            lambda: client.ack(acked),
            lambda: client.reject(rejected, requeue=False),
            lambda: client.reject(back, requeue=True, failure=a_failure(queue), queue=third),
            lambda: client.declare(third),
            lambda: client.subscribe(third, 1),
            lambda: client.hand_back(client.receive(third, 1, self.wait)),
            lambda: client.unsubscribe(third),
            lambda: client.purge(queue),
            lambda: client.replay(f"{third}-dead"),
            client.flush,
            lambda: client.publish(other, b"there"),
            lambda: client.publish_many(queue, [Message(b"here")]),
        ]
        if client.capabilities.browse:
            calls.insert(0, lambda: client.dead_letters(f"{third}-dead"))
        if client.capabilities.letters:
            calls.insert(0, lambda: client.delete_letters(f"{third}-dead", letters=[]))
        call = Call(lambda: [each() for each in calls])
        assert call.ended(self.wait), "a call waits for the receive of another thread"
        call.result()
        client.wake_receive_any()
        assert any_of_one.ended(self.wait), "receive_any does not see that it is woken"
        assert any_of_one.result() == []
        for waiting, body in ((there, b"there"), (here, b"here")):
            assert waiting.ended(self.wait), "a blocked receive does not see what its own client published"
            (delivery,) = cast(list[Delivery], waiting.result())
            assert delivery.body == body
            client.ack(delivery)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
    def test_a_forked_child_leaves_its_parents_connection_alone(self, broker_url: str, queue: str) -> None:
        """There the client is not connected; whatever the child does with it, its parent goes on as before."""
        client = self.with_options(self.patient_options).create_client(broker_url)
        try:
            self._fork(client, queue)
        finally:
            self.disconnect_in_time(client)

    def _fork(self, client: QueueClient, queue: str) -> None:
        client.publish(queue, b"x")
        delivery = self.receive_one(client, queue)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it is what this test is about
            child = os.fork()
        if child == 0:
            os._exit(_use_in_a_child(client, queue, delivery))
        try:
            _, status = self.eventually(lambda: _ended(child), message="a client hangs in a forked child")
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        assert os.waitstatus_to_exitcode(status) == 0, "in a forked child the client still counts as connected"
        assert client.connected
        client.publish(queue, b"after")
        client.ack(delivery)
        assert client.flush()
        after = self.receive_one(client, queue)
        assert after.body == b"after"
        client.ack(after)
        assert client.flush()
        self.assert_empty(client, queue)


def _use_in_a_child(client: QueueClient, queue: str, delivery: Delivery) -> int:
    """What a forked child does: 0 when each call says that the client is not connected."""
    try:
        if client.connected:
            return 1
        for call in (
            lambda: client.stats(queue),
            lambda: client.publish(queue, b"x"),
            lambda: client.publish_soon(queue, [Message(b"x")])[0].result(_SECONDS),
            lambda: client.receive(queue),
            lambda: client.ack(delivery),
            lambda: client.reject(delivery),
            lambda: client.declare(queue),
            lambda: client.purge(queue),
        ):
            try:
                call()
            except NotConnectedError:
                continue
            return 1
        client.disconnect()
    except BaseException:
        return 1
    return 0


def _ended(child: int) -> tuple[int, ...]:
    """Its id and what became of a child process; nothing while it lives."""
    done, status = os.waitpid(child, os.WNOHANG)
    return (done, status) if done else ()
