"""Sends acknowledgements that no read takes along.

A busy queue carries them in the write of its next read. Where no read comes, a thread sends them a few milliseconds
after the first: one round trip for all that came meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import code, is_transient, refused, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.protocol.scripts import ACK, Command
from qbridge_redis.queues.permissions import ask_missing_rights
from qbridge_redis.state.context import NodeContext, ServerContext, log
from qbridge_redis.state.in_flight import InFlight

_GATHER: Final = 0.003


def acks_command(context: NodeContext, stream: bytes, acks: list[bytes]) -> Command:
    """The command that removes these entries."""
    return ACK([stream], context.options.group, *acks)


def finish_acks(in_flight: InFlight, acks: list[bytes], reply: Any) -> bool:
    """Book the reply (None: there was none); return whether they are done.

    What is not done is sent again: until then its entries are held, so that nobody runs what is finished.
    """
    if isinstance(reply, int):
        if in_flight.confirm(acks):
            log.info("finished tasks of %s are removed again", in_flight.queue)
        return True
    if isinstance(reply, ResponseError) and not is_transient(reply) and code(reply) != "NOSCRIPT":
        in_flight.refuse_acks(acks, refused(reply, "acknowledge"))
    else:
        in_flight.give_back_acks(acks)
    return False


class Acknowledgements:
    """The thread for one server, and ``flush`` for any thread.

    Args:
        server: the server.
        contexts: those of the nodes that are there now.

    Attributes:
        pulse: of the thread.
    """

    def __init__(self, server: ServerContext, contexts: Callable[[], Sequence[NodeContext]]) -> None:
        self.pulse = Pulse("the thread that acknowledges to Redis")
        self._server = server
        self._contexts = contexts
        self._wanted = server.acks_waiting
        self._is_ended = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        thread = threading.Thread(target=self._run, name="qbridge-redis-acknowledgements", daemon=True)
        thread.start()
        self._thread = thread

    def end(self) -> None:
        """End the thread some time: there is no node here any more."""
        self._is_ended = True
        self._wanted.set()

    def stop(self, timeout: float) -> None:
        """End the thread; ``closing`` must be set."""
        self._wanted.set()
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def flush(self, timeout: float) -> bool:
        """Send all that wait; return whether none is left."""
        deadline = monotonic() + timeout
        pause = ReconnectPause()
        for in_flight in self._in_flight():
            in_flight.retry_acks()
        self._read_late(math.inf)
        while True:
            with contextlib.suppress(QBridgeError, *LOST):
                self._send(self._waiting(), deadline - monotonic())
            if all(in_flight.wait_confirmed(deadline) for in_flight in self._in_flight()):
                return True
            if monotonic() >= deadline or any(in_flight.refused_for() for in_flight in self._in_flight()):
                return False
            time.sleep(min(pause.next(), max(0.0, deadline - monotonic())))

    @property
    def has_work(self) -> bool:
        """Whether there is something to send, or to be read that confirms it."""
        return any(context.unread for context in self._contexts()) or not all(
            in_flight.wait_confirmed(0.0) for in_flight in self._in_flight()
        )

    def _run(self) -> None:
        pause = ReconnectPause()
        closing = self._server.closing
        while not (closing.is_set() or self._is_ended):
            self.pulse.rest()
            if not self._wait():
                return
            self.pulse.turn(self._server.options.patience)
            before = {in_flight.queue: in_flight.batches for in_flight in self._in_flight()}
            closing.wait(_GATHER)
            self._wanted.clear()
            try:
                self._complain()
                self._read_late(monotonic())
                self._send_idle(before)
                self._server.outage.back(self)
                pause.reset()
            except (QBridgeError, *LOST) as exc:
                error = unreachable(exc, self._server.where) if isinstance(exc, LOST) else exc
                self._server.lost(self, error)
                self._wanted.set()
                closing.wait(pause.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("the thread that acknowledges goes on after an unexpected error")
                self._wanted.set()
                closing.wait(pause.next())
        if self._is_ended:
            self._server.outage.back(self)
        self.pulse.rest()

    def _wait(self) -> bool:
        """Wait until there may be something to do; False when the thread is to end."""
        self._wanted.wait(self._pause())
        return True

    def _pause(self) -> float | None:
        """How long to wait when nobody calls: until what the server refused is to be tried again."""
        waits = [wait for in_flight in self._in_flight() if (wait := in_flight.refused_for()) is not None]
        return min(waits) if waits else None

    def _complain(self) -> None:
        """Say once what the server refuses. Not where it was refused: a reader has no time for questions."""
        for context in self._contexts():
            for in_flight in context.all_in_flight():
                if error := in_flight.new_refusal():
                    log.error(
                        "finished tasks of %s cannot be removed: %s; they are kept and tried again, and would run "
                        "again if this process ended",
                        in_flight.queue,
                        ask_missing_rights(context, in_flight.queue) or error,
                    )

    def _read_late(self, now: float) -> None:
        """Have replies read that confirm acknowledgements, and that nobody comes for because tasks take longer now."""
        for context in self._contexts():
            for reader in context.unread.copy():
                reader.read_late(now)
            if context.unread:
                self._wanted.set()

    def _send_idle(self, before: Mapping[str, int]) -> None:
        """Send what no read has taken along meanwhile; where reads come, competing with them costs half the speed."""
        idle: list[tuple[NodeContext, list[InFlight]]] = []
        for context, waiting in self._waiting():
            quiet = [in_flight for in_flight in waiting if before.get(in_flight.queue) == in_flight.batches]
            if len(quiet) < len(waiting):
                self._wanted.set()
            if quiet:
                idle.append((context, quiet))
        self._send(idle, self._server.options.connect_timeout)

    def _in_flight(self) -> Iterator[InFlight]:
        """What is in flight of all queues that are there."""
        for context in self._contexts():
            yield from context.all_in_flight()

    def _waiting(self) -> list[tuple[NodeContext, list[InFlight]]]:
        """The queues that have acknowledgements to send, for each node that has some."""
        found = [
            (context, [in_flight for in_flight in context.all_in_flight() if in_flight.has_acks])
            for context in self._contexts()
        ]
        return [(context, waiting) for context, waiting in found if waiting]

    def _send(self, queues: Sequence[tuple[NodeContext, list[InFlight]]], timeout: float) -> None:
        """Send what waits. What fails for one node is tried for the others all the same, while there is time."""
        deadline = monotonic() + timeout
        failed: QBridgeError | None = None
        for context, waiting in queues:
            try:
                with context.pool.connection(max(0.05, deadline - monotonic())) as connection:
                    for in_flight in waiting:
                        while self._send_batch(context, connection, in_flight):
                            pass
            except QBridgeError as exc:
                failed = failed or exc
                if monotonic() >= deadline:
                    break
        if failed is not None:
            raise failed

    def _send_batch(self, context: NodeContext, connection: RedisConnection, in_flight: InFlight) -> bool:
        """Send one batch; return whether to go on."""
        acks = in_flight.take_acks()
        if not acks:
            return False
        reply: Any = None
        try:
            reply = connection.call(acks_command(context, context.keys.stream(in_flight.queue), acks))
        finally:
            done = finish_acks(in_flight, acks, reply)
            if not done:  # a flush of another thread may be over before they can be sent again
                context.acks_waiting.set()
        if not done and in_flight.refused_for() is None:
            raise QBridgeError(f"Redis answered {reply}")
        if not done:
            self._complain()
        return done
