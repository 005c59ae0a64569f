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

from qbridge_core import QBridgeError
from qbridge_redis.backoff import Backoff
from qbridge_redis.failures import code, is_transient
from qbridge_redis.ledger import Ledger
from qbridge_redis.link import LOST, Link
from qbridge_redis.scripts import ACK, Command
from qbridge_redis.session import Session, log

_GATHER: Final = 0.003


def acks_command(session: Session, stream: bytes, acks: list[bytes]) -> Command:
    """The command that removes these entries."""
    return ACK([stream], session.options.group, *acks)


def finish_acks(ledger: Ledger, acks: list[bytes], reply: Any) -> bool:
    """Book the reply (None: there was none); return whether they are done."""
    if isinstance(reply, int):
        ledger.confirm(acks)
        return True
    if isinstance(reply, ResponseError) and not is_transient(reply) and code(reply) != "NOSCRIPT":
        log.error("Redis refuses acknowledgements of %s: %s; the messages may come again", ledger.queue, reply)
        ledger.confirm(acks)
        return True
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
        deadline = time.monotonic() + timeout
        backoff = Backoff()
        while True:
            with contextlib.suppress(QBridgeError, *LOST):
                waiting = [ledger for ledger in self._session.ledgers() if ledger.has_acks]
                self._send(waiting, max(0.05, deadline - time.monotonic()))
            if all(ledger.wait_confirmed(deadline) for ledger in self._session.ledgers()):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(backoff.next(), max(0.0, deadline - time.monotonic())))

    def _run(self) -> None:
        backoff = Backoff()
        closing = self._session.closing
        while not closing.is_set():
            self._wanted.wait()
            before = {ledger.queue: ledger.batches for ledger in self._session.ledgers()}
            closing.wait(_GATHER)
            self._wanted.clear()
            try:
                self._send_idle(before)
                backoff.reset()
            except (QBridgeError, *LOST) as exc:
                log.info("acknowledgements have to wait: %s", exc)
                self._wanted.set()
                closing.wait(backoff.next())
            except Exception:  # noqa: BLE001 - a dead thread would be worse than any error
                log.exception("the flusher goes on after an unexpected error")
                closing.wait(backoff.next())

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
        if not done:
            raise QBridgeError(f"Redis answered {reply}")
        return True
