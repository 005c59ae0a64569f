"""Runs requests that need answers (declare, bind, count, purge) one after the other on a channel of their own.

A request is a generator: it yields steps, each of which sends one method, and gets the answer back; a refusal, with
which the broker closes the channel, is raised where the step was yielded. So the same code serves a caller that
waits in its own thread and the I/O thread itself, which must never wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any, TypeVar

from pika import exceptions
from pika.channel import Channel

from qbridge_core.backend import BrokerUnavailableError, QBridgeError
from qbridge_rabbitmq.amqp import errors
from qbridge_rabbitmq.amqp.connection import AmqpConnection
from qbridge_rabbitmq.connection.connections import Connections

T = TypeVar("T")
Step = Callable[[Channel, Callable[[Any], None]], object]
"""Sends one method on the channel and passes the answer to the callback."""
Steps = Generator[Step, Any, T]


class Requests:
    """The channel for requests on the consuming connection. ``call`` is for any other thread than the I/O thread.

    Args:
        connections: the client's.
        timeout: seconds to wait for an answer.
    """

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        self._connection: AmqpConnection | None = None
        self._channel: Channel | None = None
        self._waiting: deque[tuple[Steps[Any], Future[Any]]] = deque()
        self._running: tuple[Steps[Any], Future[Any]] | None = None
        self._step: Step | None = None
        self._serial = 0

    def call(self, what: str, steps: Steps[T], needs: str = "") -> T:
        """Have the broker do something, which ``needs`` some permissions, and wait for its answer.

        Raises:
            QBridgeError: it refused, did not answer in time, or is not connected.
        """
        future: Future[T] = Future()
        io = self._connections.io
        io.post(lambda: self.submit(steps, future))
        try:
            return future.result(self._timeout)
        except QBridgeError:
            raise
        except TimeoutError as exc:
            io.post(lambda: self.give_up(future))
            self._connections.require_open()
            raise BrokerUnavailableError(f"{what}: no answer within {self._timeout:g} s") from exc
        except Exception as exc:
            self._connections.require_open()
            raise errors.from_channel(exc, what, needs) from exc

    # ------------------------------------------------------------------ I/O thread

    def begin(self, steps: Steps[T], done: Callable[[Future[T]], None]) -> None:
        """A request that nobody waits for; it must not block those of others for ever.

        Its time begins when it is its turn: those before it take as long as they take.
        """
        future: Future[T] = Future()
        future.add_done_callback(done)
        self.submit(self._limited(steps, future), future)

    def _limited(self, steps: Steps[T], future: Future[T]) -> Steps[T]:
        self._connections.io.later(self._timeout, lambda: self.give_up(future))
        return (yield from steps)

    def up(self, connection: AmqpConnection) -> None:
        """The connection is there."""
        self._connection = connection
        self._next()

    def down(self, reason: BaseException) -> None:
        """The connection is lost: so are all requests."""
        self._connection = self._channel = None
        waiting, self._waiting = self._waiting, deque()
        if self._running is not None:
            self._resume(error=reason)
        for steps, future in waiting:
            steps.close()
            future.set_exception(reason)

    def submit(self, steps: Steps[T], future: Future[T]) -> None:
        """Run the steps when those submitted before are through; the future gets what they return."""
        if self._connection is None:
            steps.close()
            future.set_exception(exceptions.ConnectionWrongStateError("the connection is down"))
            return
        self._waiting.append((steps, future))
        self._next()

    def give_up(self, future: Future[Any]) -> None:
        """Nobody waits for this request any longer; if the broker is stuck with it, go on in a new channel."""
        if self._running is not None and self._running[1] is future:
            stuck, self._channel = self._channel, None
            if stuck is not None and stuck.is_open:
                stuck.close()  # or a broker that is slow for long would have one more each time, until there is none
            self._resume(error=TimeoutError("the broker did not answer in time"))

    def _next(self) -> None:
        if self._running is None and self._waiting:
            self._running = self._waiting.popleft()
            self._resume()

    def _resume(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Let the running steps go on to their next step or their end."""
        if self._running is None:
            return
        steps, future = self._running
        self._serial += 1
        try:
            self._step = steps.throw(error) if error is not None else steps.send(answer)
        except StopIteration as end:
            self._running = None
            future.set_result(end.value)
        except Exception as exc:  # noqa: BLE001 - the waiting caller gets it
            self._running = None
            future.set_exception(exc)
        else:
            self._perform()
            return
        self._next()

    def _perform(self) -> None:
        """Send the current step, on a new channel when there is none."""
        step = self._step
        if self._connection is None or not self._connection.is_open or step is None:
            self._resume(error=exceptions.ConnectionWrongStateError("the connection is down"))
        elif self._channel is None:
            self._open(self._connection)
        else:
            serial = self._serial

            def answered(answer: Any) -> None:
                if serial == self._serial:
                    self._resume(answer)

            try:
                step(self._channel, answered)
            except Exception as exc:  # noqa: BLE001 - for example a name that cannot be encoded
                self._resume(error=exc)

    def _open(self, connection: AmqpConnection) -> None:
        def opened(channel: Channel) -> None:
            if channel is self._channel and self._running is not None:
                self._perform()

        channel = connection.channel(on_open_callback=opened)
        channel.add_on_close_callback(self._closed)
        self._channel = channel

    def _closed(self, channel: Channel, reason: BaseException) -> None:
        if channel is self._channel:
            self._channel = None
            if self._running is not None and self._connection is not None and self._connection.is_open:
                self._resume(error=reason)
