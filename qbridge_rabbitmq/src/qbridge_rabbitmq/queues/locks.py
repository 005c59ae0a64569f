"""Locks at the broker that last as long as a connection: exclusive queues, declared again on each new one."""

from __future__ import annotations

from typing import Final

from pika import exceptions

from qbridge_core.backend import BrokerUnavailableError, QBridgeError, logger
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.queues.comparison import passive_queue
from qbridge_rabbitmq.queues.requests import Requests, Steps

_log: Final = logger("qbridge.rabbitmq")


class Locks:
    """The locks of one client. Thread-safe.

    Args:
        requests: asks the broker.

    Attributes:
        held: their names.
    """

    def __init__(self, requests: Requests) -> None:
        self.held: set[str] = set()
        self._requests = requests

    def take(self, name: str) -> bool:
        """Whether this client has the lock now; False when another one has it."""
        self.held.add(name)
        taken = False
        try:
            taken = self._requests.call(f"lock {name!r}", _lock(name))
        finally:
            if not taken:
                self.held.discard(name)
        return taken

    def is_free(self, name: str) -> bool:
        """Whether nobody has it, this client included."""
        return self._requests.call(f"lock {name!r}", _is_free(name))

    def release(self, name: str) -> None:
        """Give it back.

        Raises:
            BrokerUnavailableError: there is no answer; the lock ends with the connection.
        """
        self.held.discard(name)
        try:
            self._requests.call(f"lock {name!r}", _unlock(name))
        except BrokerUnavailableError:
            raise
        except QBridgeError:
            pass  # it ends with the connection

    def resume(self) -> Steps[None]:
        """In the I/O thread, on a new connection: take them all again."""
        for name in list(self.held):
            try:
                yield from _lock(name)
            except exceptions.AMQPChannelError as exc:
                _log.error("cannot lock %r again: %s", name, errors.reply_text(exc))


def _lock(name: str) -> Steps[bool]:
    try:
        yield lambda ch, done: ch.queue_declare(name, exclusive=True, callback=done)
    except exceptions.ChannelClosedByBroker as exc:
        if exc.reply_code == errors.ACCESS_REFUSED:
            return True  # not permitted; then there are no locks
        if exc.reply_code != errors.RESOURCE_LOCKED:
            raise
        return False
    return True


def _unlock(name: str) -> Steps[None]:
    yield lambda ch, done: ch.queue_delete(name, callback=done)


def _is_free(name: str) -> Steps[bool]:
    try:
        yield passive_queue(name)
    except exceptions.ChannelClosedByBroker as exc:
        if exc.reply_code == errors.RESOURCE_LOCKED:
            return False
        if not errors.is_missing(exc) and exc.reply_code != errors.ACCESS_REFUSED:
            raise
        return True
    return False
