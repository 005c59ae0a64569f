"""Transports that kombu makes of a store: a queue is a list of texts, and what is received is gone from it."""

from __future__ import annotations

from collections.abc import Sequence
from queue import Empty
from typing import Any, Final

from qbridge_core.backend import Capabilities, UnroutableError
from qbridge_kombu.protocol.headers import was_handed_back, was_suspected
from qbridge_kombu.protocol.messages import Outgoing, Received, prepared
from qbridge_kombu.transports.base import DETAILS, Transport
from qbridge_kombu.transports.session import KombuSession

_KNOWN: Final = "known queues"
# What kombu writes anew into each message.
_KOMBUS_OWN: Final = {"delivery_tag", "delivery_info", "body_encoding"}


class VirtualTransport(Transport):
    """What the transports on ``kombu.transport.virtual`` have in common.

    The bridge takes a message with the channel's own ``_get``, which is what kombu's classes implement for each store.
    So kombu's quality of service, which keeps messages back and forgets them in a crash, has no part in it: the client
    knows what it holds.
    """

    instant_acknowledge = True
    capabilities = Capabilities(
        delay=True,
        shared=True,
        instant_ack=True,
        redelivers=False,
        ordered=False,
        exact_stats=False,
        details=DETAILS,
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        imports=True,
    )

    def exists(self, session: KombuSession, name: str) -> bool:
        """Ask the channel."""
        return bool(session.channel._has_queue(name))

    def create(self, session: KombuSession, name: str) -> None:
        """Have the channel make it."""
        session.channel._new_queue(name)
        self.known(session).add(name)

    def size(self, session: KombuSession, name: str) -> int:
        """What the channel counts."""
        return int(session.channel._size(name)) if self.is_known(session, name) else 0

    def purge(self, session: KombuSession, name: str) -> int:
        """Have the channel delete what waits."""
        return int(session.channel._purge(name) or 0) if self.is_known(session, name) else 0

    def publish(self, session: KombuSession, name: str, messages: Sequence[Outgoing], timeout: float) -> None:
        """Put one after the other."""
        self.require(session, name)
        for message in messages:
            self.put(session, name, message)

    def put(self, session: KombuSession, name: str, message: Outgoing) -> None:
        """Put one message into the store."""
        session.channel.basic_publish(prepared(session.channel, message), exchange="", routing_key=name)

    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Take up to ``count`` that are there."""
        self.require(session, name)
        taken: list[Received] = []
        while len(taken) < count:
            try:
                payload = session.channel._get(name)
            except Empty:
                break
            taken.append(received(session.channel, payload))
        return taken

    def acknowledge(self, session: KombuSession, name: str, received: Sequence[Received]) -> None:
        """Nothing: the store does not have them any more."""

    def require(self, session: KombuSession, name: str) -> None:
        """Refuse a queue that does not exist, which the channel would make.

        Raises:
            UnroutableError: it does not exist.
        """
        if not self.is_known(session, name):
            raise UnroutableError(f"the queue {name!r} does not exist; declare it first")

    def is_known(self, session: KombuSession, name: str) -> bool:
        """Whether a queue exists; one that did is not asked for again on this connection."""
        known = self.known(session)
        if name in known:
            return True
        if not self.exists(session, name):
            return False
        known.add(name)
        return True

    @staticmethod
    def known(session: KombuSession) -> set[str]:
        """The queues that were found to exist."""
        known: set[str] = session.notes.setdefault(_KNOWN, set())
        return known


def received(channel: Any, payload: dict[str, Any], handle: Any = None) -> Received:
    """What a store holds, as the bridge takes it.

    kombu's ``Message`` is not used: it unpacks the body of whoever has a header ``compression``, and the body is the
    producer's.
    """
    given = payload.get("properties") or {}
    body = channel.decode_body(payload.get("body") or b"", given.get("body_encoding"))
    properties = {name: value for name, value in given.items() if name not in _KOMBUS_OWN}
    properties["content_type"] = payload.get("content-type")
    properties["content_encoding"] = payload.get("content-encoding")
    headers = payload.get("headers") or {}
    redelivered = bool(payload.get("redelivered")) or was_handed_back(headers)
    raw = body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)
    return Received(raw, headers, properties, handle, redelivered, was_suspected(headers))
