"""Sends acknowledgements that no read takes along.

A busy queue carries them in the write of its next read. Where no read comes, a thread sends them a few milliseconds
after the first: one round trip for all that came meanwhile.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import Pulse, QBridgeError, monotonic
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import code, is_transient, refused, unreachable
from qbridge_redis.connection.reconnect_pause import ReconnectPause
from qbridge_redis.protocol.scripts import ACK, Command
from qbridge_redis.queues.permissions import ask_missing_rights
from qbridge_redis.state.context import NodeContext, log
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
    """The thread, and ``flush`` for any thread.

    Attributes:
        pulse: of the thread.
    """

    def __init__(self, context: NodeContext) -> None:
        self.pulse = Pulse("the thread that acknowledges to Redis")
        self._context = context
        self._wanted = context.acks_waiting
        self._thread = threading.Thread(target=self._run, name="qbridge-redis-acknowledgements", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There are acknowledgements. Cheap when that is known already."""
        if not self._wanted.is_set():
            self._wanted.set()

    def stop(self, timeout: float) -> None:
        """End the thread; ``context.closing`` must be set."""
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def flush(self, timeout: float) -> bool:
        """Send all that wait; return whether none is left."""
        deadline = monotonic() + timeout
        pause = ReconnectPause()
        for in_flight in self._context.all_in_flight():
            in_flight.retry_acks()
        self._read_late(math.inf)
        while True:
            with contextlib.suppress(QBridgeError, *LOST):
                waiting = [in_flight for in_flight in self._context.all_in_flight() if in_flight.has_acks]
                self._send(waiting, max(0.05, deadline - monotonic()))
            if all(in_flight.wait_confirmed(deadline) for in_flight in self._context.all_in_flight()):
                return True
            if monotonic() >= deadline or any(in_flight.refused_for() for in_flight in self._context.all_in_flight()):
                return False
            time.sleep(min(pause.next(), max(0.0, deadline - monotonic())))

    def _run(self) -> None:
        pause = ReconnectPause()
        closing = self._context.closing
        while not closing.is_set():
            self.pulse.rest()
            self._wanted.wait(self._pause())
            self.pulse.turn(self._context.options.patience)
            before = {in_flight.queue: in_flight.batches for in_flight in self._context.all_in_flight()}
            closing.wait(_GATHER)
            self._wanted.clear()
            try:
                self._complain()
                self._read_late(monotonic())
                self._send_idle(before)
                self._context.outage.back(self)
                pause.reset()
            except (QBridgeError, *LOST) as exc:
                error = unreachable(exc, self._context.options) if isinstance(exc, LOST) else exc
                self._context.lost(self, error)
                self._wanted.set()
                closing.wait(pause.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("the thread that acknowledges goes on after an unexpected error")
                self._wanted.set()
                closing.wait(pause.next())
        self.pulse.rest()

    def _pause(self) -> float | None:
        """How long to wait when nobody calls: until what the server refused is to be tried again."""
        waits = [wait for in_flight in self._context.all_in_flight() if (wait := in_flight.refused_for()) is not None]
        return min(waits) if waits else None

    def _complain(self) -> None:
        """Say once what the server refuses. Not where it was refused: a reader has no time for questions."""
        for in_flight in self._context.all_in_flight():
            if error := in_flight.new_refusal():
                log.error(
                    "finished tasks of %s cannot be removed: %s; they are kept and tried again, and would run again if "
                    "this process ended",
                    in_flight.queue,
                    ask_missing_rights(self._context, in_flight.queue) or error,
                )

    def _read_late(self, now: float) -> None:
        """Have replies read that confirm acknowledgements, and that nobody comes for because tasks take longer now."""
        for reader in self._context.unread.copy():
            reader.read_late(now)
        if self._context.unread:
            self._wanted.set()

    def _send_idle(self, before: Mapping[str, int]) -> None:
        """Send what no read has taken along meanwhile; where reads come, competing with them costs half the speed."""
        waiting = [in_flight for in_flight in self._context.all_in_flight() if in_flight.has_acks]
        idle = [in_flight for in_flight in waiting if before.get(in_flight.queue) == in_flight.batches]
        if len(idle) < len(waiting):
            self._wanted.set()
        self._send(idle, self._context.options.connect_timeout)

    def _send(self, queues: Sequence[InFlight], timeout: float) -> None:
        if not queues:
            return
        with self._context.pool.connection(timeout) as connection:
            for in_flight in queues:
                while self._send_batch(connection, in_flight):
                    pass

    def _send_batch(self, connection: RedisConnection, in_flight: InFlight) -> bool:
        """Send one batch; return whether to go on."""
        acks = in_flight.take_acks()
        if not acks:
            return False
        reply: Any = None
        try:
            reply = connection.call(acks_command(self._context, self._context.keys.stream(in_flight.queue), acks))
        finally:
            done = finish_acks(in_flight, acks, reply)
            if not done:  # a flush of another thread may be over before they can be sent again
                self._wanted.set()
        if not done and in_flight.refused_for() is None:
            raise QBridgeError(f"Redis answered {reply}")
        if not done:
            self._complain()
        return done
