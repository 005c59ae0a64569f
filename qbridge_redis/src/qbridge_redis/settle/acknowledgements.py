"""Sends acknowledgements that no read takes along.

A busy queue carries them in the write of its next read. Where no read comes, a thread sends them a few milliseconds
after the first: one round trip for all that came meanwhile.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import QBridgeError, monotonic
from qbridge_redis.connection.backoff import Backoff
from qbridge_redis.connection.connection import LOST, Link
from qbridge_redis.connection.errors import code, is_transient, refused, unreachable
from qbridge_redis.protocol.scripts import ACK, Command
from qbridge_redis.queues.permissions import ask_missing_rights
from qbridge_redis.state.context import Session, log
from qbridge_redis.state.in_flight import Ledger

_GATHER: Final = 0.003


def acks_command(session: Session, stream: bytes, acks: list[bytes]) -> Command:
    """The command that removes these entries."""
    return ACK([stream], session.options.group, *acks)


def finish_acks(ledger: Ledger, acks: list[bytes], reply: Any) -> bool:
    """Book the reply (None: there was none); return whether they are done.

    What is not done is sent again: until then its entries are held, so that nobody runs what is finished.
    """
    if isinstance(reply, int):
        if ledger.confirm(acks):
            log.info("finished tasks of %s are removed again", ledger.queue)
        return True
    if isinstance(reply, ResponseError) and not is_transient(reply) and code(reply) != "NOSCRIPT":
        ledger.refuse_acks(acks, refused(reply, "acknowledge"))
    else:
        ledger.give_back_acks(acks)
    return False


class Flusher:
    """The thread, and ``flush`` for any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._wanted = session.acks_waiting
        self._thread = threading.Thread(target=self._run, name="qbridge-redis-flusher", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There are acknowledgements. Cheap when that is known already."""
        if not self._wanted.is_set():
            self._wanted.set()

    def stop(self, timeout: float) -> None:
        """End the thread; ``session.closing`` must be set."""
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def flush(self, timeout: float) -> bool:
        """Send all that wait; return whether none is left."""
        deadline = monotonic() + timeout
        backoff = Backoff()
        for ledger in self._session.ledgers():
            ledger.retry_acks()
        while True:
            with contextlib.suppress(QBridgeError, *LOST):
                waiting = [ledger for ledger in self._session.ledgers() if ledger.has_acks]
                self._send(waiting, max(0.05, deadline - monotonic()))
            if all(ledger.wait_confirmed(deadline) for ledger in self._session.ledgers()):
                return True
            if monotonic() >= deadline or any(ledger.refused_for() for ledger in self._session.ledgers()):
                return False
            time.sleep(min(backoff.next(), max(0.0, deadline - monotonic())))

    def _run(self) -> None:
        backoff = Backoff()
        closing = self._session.closing
        while not closing.is_set():
            self._wanted.wait(self._pause())
            before = {ledger.queue: ledger.batches for ledger in self._session.ledgers()}
            closing.wait(_GATHER)
            self._wanted.clear()
            try:
                self._complain()
                self._send_idle(before)
                self._session.outage.back(self)
                backoff.reset()
            except (QBridgeError, *LOST) as exc:
                error = unreachable(exc, self._session.options) if isinstance(exc, LOST) else exc
                self._session.lost(self, error)
                self._wanted.set()
                closing.wait(backoff.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("the flusher goes on after an unexpected error")
                closing.wait(backoff.next())

    def _pause(self) -> float | None:
        """How long to wait when nobody calls: until what the server refused is to be tried again."""
        waits = [wait for ledger in self._session.ledgers() if (wait := ledger.refused_for()) is not None]
        return min(waits) if waits else None

    def _complain(self) -> None:
        """Say once what the server refuses. Not where it was refused: a reader has no time for questions."""
        for ledger in self._session.ledgers():
            if error := ledger.new_refusal():
                log.error(
                    "finished tasks of %s cannot be removed: %s; they are kept and tried again, and would run again if "
                    "this process ended",
                    ledger.queue,
                    ask_missing_rights(self._session, ledger.queue) or error,
                )

    def _send_idle(self, before: Mapping[str, int]) -> None:
        """Send what no read has taken along meanwhile; where reads come, competing with them costs half the speed."""
        waiting = [ledger for ledger in self._session.ledgers() if ledger.has_acks]
        idle = [ledger for ledger in waiting if before.get(ledger.queue) == ledger.batches]
        if len(idle) < len(waiting):
            self._wanted.set()
        self._send(idle, self._session.options.connect_timeout)

    def _send(self, ledgers: Sequence[Ledger], timeout: float) -> None:
        if not ledgers:
            return
        with self._session.links.lease(timeout) as link:
            for ledger in ledgers:
                while self._send_batch(link, ledger):
                    pass

    def _send_batch(self, link: Link, ledger: Ledger) -> bool:
        """Send one batch; return whether to go on."""
        acks = ledger.take_acks()
        if not acks:
            return False
        reply: Any = None
        try:
            reply = link.call(acks_command(self._session, self._session.keys.stream(ledger.queue), acks))
        finally:
            done = finish_acks(ledger, acks, reply)
            if not done:  # a flush of another thread may be over before they can be sent again
                self._wanted.set()
        if not done and ledger.refused_for() is None:
            raise QBridgeError(f"Redis answered {reply}")
        if not done:
            self._complain()
        return done
