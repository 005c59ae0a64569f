"""What differs between the brokers that kombu reaches: the one interface between the bridge and a transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final

from kombu.connection import Connection

from qbridge_core.backend import BrokerURL, Capabilities, Check, Finding, OptionReader
from qbridge_kombu.protocol.messages import Outgoing, Received
from qbridge_kombu.transports.session import KombuSession

DETAILS: Final = frozenset({"dead"})
"""What any broker can tell beyond the counts of a queue."""


class Transport(ABC):
    """One kind of broker, as the bridge needs it. One instance belongs to one client.

    **Threads.** A method that gets a :class:`KombuSession` is called by the thread that owns this session, one call
    at a time; several sessions of one client may be in use at once. It must return in bounded time: a caller that has
    waited for too long gives the whole session up, and what is in it.

    **Errors.** Whatever a method raises is turned into an error of QBridge's by :meth:`translate` and, for what that
    returns ``None``, by the bridge. An exception that is not QBridge's own costs the session: it is closed and made
    anew.

    **Names.** Methods get the broker's names of queues, which :meth:`name_of` makes.

    Attributes:
        keeps_unacknowledged: the broker itself keeps a message until it is acknowledged (class A). Otherwise it is gone
            from the broker when it is received (class B): the bridge refuses such a transport unless ``allow_loss`` is
            given, holds the messages in memory, and puts copies back when it hands back.
        bound_to_session: what was received can be settled through the session only that received it, and is the
            broker's again when that session ends (a channel of AMQP). Otherwise any session settles it.
        capabilities: what a client with this transport can do.
        options: readers of the transport's own options, beside those of every client.
        hints: what to write instead of options that kombu has; added to the error.
        required: what has to be installed, as ``pip`` calls it; for the error when an import fails.
        lease: seconds for which the broker lends a message; ``None`` when it keeps it for a consumer that lives.
        longest_task: seconds that a task may take at most however often its lease is renewed; ``None`` for no bound.
        max_native_delay: seconds for which the broker itself can hold a message back. What is longer waits in the queue
            ``<queue>.delayed``, in steps of this length.
        blocking_receive: seconds for which one call of :meth:`receive` may wait at the broker for a message (long
            polling). Then each queue that is received from has a session and thread of its own. With 0 it is polled.
        delayed_look: seconds between two looks into ``<queue>.delayed``.
        one_session: one connection does everything: the broker has one writer at a time anyway.
        publish_batch: how many messages :meth:`publish` gets at once at most.
        receive_batch: how many messages :meth:`receive` is asked for at once at most.
        acknowledge_batch: how many messages :meth:`acknowledge` gets at once at most.
        instant_acknowledge: acknowledging is nothing but forgetting, without the broker (class B).
        releases_uncounted: :meth:`release` counts nothing, so a hand-back needs no copy.
        tells_sent: the broker itself tells when a message was published (``Received.sent``); otherwise the producer
            writes that into a header.
        purges_in_parts: :meth:`purge` deletes for a moment only, and is called until it finds nothing.
        secrets: what no text may show, beside the password of the URL.
    """

    keeps_unacknowledged: ClassVar[bool] = False
    bound_to_session: ClassVar[bool] = False
    capabilities: Capabilities
    options: ClassVar[Mapping[str, OptionReader]] = {}
    hints: ClassVar[Mapping[str, str]] = {}
    required: ClassVar[str] = ""
    lease: float | None = None
    longest_task: float | None = None
    max_native_delay: float = 0.0
    blocking_receive: float = 0.0
    delayed_look: ClassVar[float] = 0.25
    one_session: ClassVar[bool] = False
    publish_batch: int = 100
    receive_batch: int = 100
    acknowledge_batch: int = 100
    instant_acknowledge: ClassVar[bool] = False
    releases_uncounted: ClassVar[bool] = False
    tells_sent: ClassVar[bool] = False
    purges_in_parts: ClassVar[bool] = False
    secrets: Sequence[str] = ()

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        """Take a URL and options that were read already: the transport's own, and those of every client.

        Raises:
            ConfigurationError: they make no sense together.
        """
        self.url = url
        self.given = options

    # ------------------------------------------------------------------ connection

    @abstractmethod
    def connection_arguments(self) -> Mapping[str, Any]:
        """The arguments of ``kombu.Connection``. It is made for each session; nothing is connected by that."""

    def load(self) -> None:
        """Import, and make once, what may take longer than any deadline of a call; nothing is connected by that."""
        Connection(**self.connection_arguments()).get_transport_cls()

    def connected(self, session: KombuSession) -> None:  # noqa: B027 - optional
        """A new session is there: look at the broker, once for each session. What it raises ends the session."""

    def closing(self, session: KombuSession) -> None:  # noqa: B027 - optional
        """A session is about to be closed, also one that is broken."""

    def disconnected(self) -> None:  # noqa: B027 - optional
        """All sessions are closed: close what they shared. They may be made anew."""

    def interrupt(self, session: KombuSession) -> None:  # noqa: B027 - optional
        """End a call that hangs in another thread, when that can be done: the session is given up."""

    def translate(self, exc: Exception, doing: str) -> Exception | None:
        """The error of QBridge's for one of the driver's, or ``None`` to leave it to the bridge.

        Its text must not have the password in it; the bridge sets the cause.
        """
        return None

    # ------------------------------------------------------------------ queues

    def name_of(self, queue: str) -> str:
        """The broker's name of a queue: another one for each queue, the same where the broker can have it."""
        return queue

    @abstractmethod
    def exists(self, session: KombuSession, name: str) -> bool:
        """Whether there is such a queue. Must not create it."""

    @abstractmethod
    def create(self, session: KombuSession, name: str) -> None:
        """Create a queue; one that exists is used as it is."""

    @abstractmethod
    def size(self, session: KombuSession, name: str) -> int:
        """How many messages wait to be received; 0 for a queue that does not exist, which is not created."""

    def delayed(self, session: KombuSession, name: str) -> int:
        """How many the broker itself holds back for later."""
        return 0

    def in_flight(self, session: KombuSession, name: str) -> int | None:
        """How many are with consumers, all of them; ``None`` when the broker does not tell (the client's own count)."""
        return None

    def oldest_age(self, session: KombuSession, name: str) -> float | None:
        """Seconds for which the oldest waiting message has been there, 0.0 when none is; ``None`` when nobody knows.

        Always known when ``capabilities.details`` says so.
        """
        return None

    def names(self, session: KombuSession) -> list[str]:
        """The broker's names of the queues that it can list, QBridge's own or all."""
        return []

    @abstractmethod
    def purge(self, session: KombuSession, name: str) -> int:
        """Delete what waits, not what is in flight; return how many."""

    def peek(self, session: KombuSession, name: str, limit: int) -> list[Received]:
        """The oldest messages, which stay where they are. Only called when ``capabilities.browse`` is claimed."""
        raise NotImplementedError

    def findings(self, session: KombuSession, name: str, check: Check) -> Iterable[Finding]:
        """What is wrong with a queue that exists; nothing where that is nothing, or nobody can tell."""
        return ()

    # ------------------------------------------------------------------ messages

    def check_size(self, message: Outgoing) -> None:  # noqa: B027 - optional
        """Refuse what would not fit with the longest explanation of a dead letter beside it (about 40 KB).

        Called by the caller of ``publish``, in its thread, not for copies.

        Raises:
            MessageTooLargeError: it is too large.
        """

    @abstractmethod
    def publish(self, session: KombuSession, name: str, messages: Sequence[Outgoing], timeout: float) -> None:
        """Publish in order; return when the broker has confirmed each one, within ``timeout`` seconds.

        Raises:
            UnroutableError: the queue does not exist, and none was published.
            PublishUnconfirmedError: nobody knows whether the broker has all of them. So is any other exception taken.
            QueueFullError, BrokerBlockedError, MessageTooLargeError: refused.
        """

    @abstractmethod
    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Take up to ``count`` messages; wait up to ``wait`` seconds (at most ``blocking_receive``) for the first.

        Raises:
            UnroutableError: the queue does not exist.
        """

    @abstractmethod
    def acknowledge(self, session: KombuSession, name: str, received: Sequence[Received]) -> None:
        """Remove these from the broker. Those that are gone already are no error."""

    def confirm_acknowledged(self, session: KombuSession) -> None:  # noqa: B027 - optional
        """Return when the broker has carried out what :meth:`acknowledge` sent; called after each batch of those.

        Nothing where that waits itself.
        """

    def release(self, session: KombuSession, name: str, received: Sequence[Received]) -> bool:
        """Give these back without a copy, for others to have at once; False when the broker cannot do that.

        Called when a copy cannot be written. The usual hand-back is a copy, then :meth:`acknowledge`: so nothing is
        counted by the broker.
        """
        return False

    def renew(self, session: KombuSession, name: str, received: Sequence[Received]) -> list[Received]:
        """Renew the leases; return those that the broker has taken back. Called each third of ``lease``.

        Only called where ``renews`` is true.
        """
        return []

    @property
    def renews(self) -> bool:
        """Whether :meth:`renew` renews leases, so that a task may take longer than one."""
        return False
