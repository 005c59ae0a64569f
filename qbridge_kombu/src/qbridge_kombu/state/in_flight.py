"""The deliveries of a connected client that are not settled, and those whose connection was lost."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Final

from qbridge_kombu.protocol.messages import Received
from qbridge_kombu.transports.session import KombuSession

_MAX_REMEMBERED: Final = 10_000
Key = tuple[str, bytes]


class State(Enum):
    """Where a delivery is between its receipt and its end."""

    OPEN = "open"
    FINISHED = "finished"  # and on its way out of the broker
    SETTLED = "settled"
    LOST = "lost"


class Tag:
    """The ``tag`` of a delivery.

    Attributes:
        received: what the transport gave; another one when the broker has delivered the message again.
        session: where it can be settled, for a transport that is bound to sessions; None after that was lost.
        copied: the message's next state is confirmed, so only the original is left to remove.
        lock: whoever settles it holds it.
    """

    __slots__ = ("copied", "in_flight", "lock", "name", "queue", "received", "session", "state")

    def __init__(self, in_flight: InFlight, queue: str, name: str, received: Received, session: KombuSession) -> None:
        self.in_flight = in_flight
        self.queue = queue
        self.name = name
        self.received = received
        self.session: KombuSession | None = session
        self.copied = False
        self.lock = threading.Lock()
        self.state = State.OPEN


class InFlight:
    """What one connected client has in flight. Thread-safe.

    Args:
        bound: what was received belongs to its session. When that is lost the broker delivers the message again,
            perhaps to this client: then it is bound to the run that goes on, or acknowledged if that is over.
    """

    def __init__(self, bound: bool) -> None:
        self._bound = bound
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._arriving: dict[object, str] = {}
        self._open: dict[Tag, None] = {}
        self._buffered: dict[str, deque[Tag]] = {}
        self._lost: dict[Key, deque[Tag]] = {}
        self._done: OrderedDict[Key, int] = OrderedDict()
        self._held: dict[tuple[str, str], Tag] = {}
        self._gone: OrderedDict[tuple[str, str], None] = OrderedDict()

    def add(self, queue: str, name: str, received: list[Received], session: KombuSession) -> list[Received]:
        """Take what a transport has handed out into the buffer; return what is to be acknowledged at once.

        That is what this client had finished when its connection was lost.
        """
        done: list[Received] = []
        with self._lock:
            buffer = self._buffered.setdefault(queue, deque())
            for each in received:
                known = self._known(queue, each, session)
                if known is None:
                    tag = Tag(self, queue, name, each, session)
                    if each.identity is not None:
                        self._held[queue, each.identity] = tag
                    self._open[tag] = None
                    buffer.append(tag)
                elif known is State.SETTLED:
                    done.append(each)
        return done

    @contextmanager
    def arriving(self, queue: str) -> Iterator[None]:
        """Around a request for messages: the broker may have handed out what ``add`` has not taken yet."""
        request = object()
        with self._lock:
            self._arriving[request] = queue
        try:
            yield
        finally:
            with self._lock:
                del self._arriving[request]
                self._arrived.notify_all()

    def wait_arrived(self, queue: str, timeout: float) -> None:
        """Wait until the requests for a queue that are under way have ended, at most so many seconds."""
        with self._lock:
            requests = [request for request, name in self._arriving.items() if name == queue]
            self._arrived.wait_for(lambda: not any(each in self._arriving for each in requests), timeout)

    def take(self, queue: str, count: int) -> list[Tag]:
        """Up to ``count`` from the buffer, for a caller."""
        with self._lock:
            buffer = self._buffered.get(queue)
            return [buffer.popleft() for _ in range(min(count, len(buffer)))] if buffer else []

    def settled(self, tag: Tag) -> None:
        """Forget a delivery; when its session was lost, remember that its message is finished with."""
        with self._lock:
            if tag.state is State.LOST:
                return
            self._open.pop(tag, None)
            self._let_go(tag)
            if tag.received.identity is not None:
                self._gone[tag.queue, tag.received.identity] = None
                while len(self._gone) > _MAX_REMEMBERED:
                    self._gone.popitem(last=False)
            if self._bound and tag.session is None and tag.state is not State.SETTLED:
                self._forget_lost(tag)
                key = _key(tag.queue, tag.received)
                self._done[key] = self._done.pop(key, 0) + 1
                while len(self._done) > _MAX_REMEMBERED:
                    self._done.popitem(last=False)
            tag.state = State.SETTLED

    def released(self, tags: list[Tag]) -> None:
        """These were given back as they are, and may come again."""
        with self._lock:
            for tag in tags:
                self._open.pop(tag, None)
                self._let_go(tag)
                tag.state = State.SETTLED

    def lost(self, tags: list[Tag]) -> None:
        """The broker has taken these back."""
        with self._lock:
            for tag in tags:
                self._let_go(tag)
                if self._open.pop(tag, 0) is None:
                    tag.state = State.LOST

    def session_ended(self, session: KombuSession) -> None:
        """What was received through a session is the broker's again; runs go on, and may be recognized later."""
        if not self._bound:
            return
        with self._lock:
            buffered = {tag for buffer in self._buffered.values() for tag in buffer}
            for tag in [tag for tag in self._open if tag.session is session]:
                tag.session = None
                if tag in buffered:
                    tag.state = State.LOST
                    del self._open[tag]
                    self._buffered[tag.queue].remove(tag)
                else:
                    self._lost.setdefault(_key(tag.queue, tag.received), deque()).append(tag)

    def open_tags(self, queue: str | None = None) -> list[Tag]:
        """All that are not settled, those of one queue or of all, in the order of receipt."""
        with self._lock:
            return [tag for tag in self._open if queue is None or tag.queue == queue]

    def buffered_tags(self, queue: str) -> list[Tag]:
        """Take what nobody has been given yet."""
        with self._lock:
            return list(self._buffered.pop(queue, ()))

    def unfinished(self, queue: str) -> set[Tag]:
        """What is in flight of a queue, without that whose acknowledgement is on its way."""
        with self._lock:
            return {tag for tag in self._open if tag.state is State.OPEN and tag.queue == queue}

    def end(self) -> None:
        """The client is disconnected: none of them is its own any more."""
        with self._lock:
            for tag in self._open:
                if tag.state is State.OPEN:
                    tag.state = State.LOST
            self._open.clear()
            self._buffered.clear()
            self._lost.clear()
            self._held.clear()

    def _known(self, queue: str, received: Received, session: KombuSession) -> State | None:
        if received.identity is not None:
            return self._identified(queue, received)
        return self._recognized(queue, received, session) if self._bound and received.suspected else None

    def _identified(self, queue: str, received: Received) -> State | None:
        """The same by the broker's own name of the message, whatever has delivered it twice."""
        key = (queue, received.identity or "")
        tag = self._held.get(key)
        if tag is not None:
            tag.received.handle = received.handle
            return State.OPEN
        return State.SETTLED if key in self._gone else None

    def _let_go(self, tag: Tag) -> None:
        if tag.received.identity is not None:
            self._held.pop((tag.queue, tag.received.identity), None)

    def _recognized(self, queue: str, received: Received, session: KombuSession) -> State | None:
        """What this client knows of a message that comes again: it is open still, or settled; None when nothing."""
        if not self._lost and not self._done:
            return None
        key = _key(queue, received)
        if key in self._done:
            self._done[key] -= 1
            if not self._done[key]:
                del self._done[key]
            return State.SETTLED
        if waiting := self._lost.get(key):
            tag = waiting.popleft()
            if not waiting:
                del self._lost[key]
            tag.received, tag.session = received, session
            return State.OPEN
        return None

    def _forget_lost(self, tag: Tag) -> None:
        key = _key(tag.queue, tag.received)
        if waiting := self._lost.get(key):
            waiting.remove(tag)
            if not waiting:
                del self._lost[key]


def _key(queue: str, received: Received) -> Key:
    """The same for two messages that nobody can tell apart."""
    headers = sorted(f"{name}={value}" for name, value in received.headers.items())
    text = "\0".join([str(received.properties.get("message_id")), *headers])
    return queue, hashlib.sha256(text.encode("utf-8", "surrogatepass") + b"\0" + received.body).digest()
