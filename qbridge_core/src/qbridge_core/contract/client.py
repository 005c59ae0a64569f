"""The contract between QBridge and a message broker.

A backend subclasses :class:`QueueClient`, implements the eight abstract methods and the ``connected`` property, and
declares in ``capabilities`` what else it can do. ``qbridge_core.testing`` holds the suite that checks it. The methods
are those of producers (:mod:`~qbridge_core.contract.producing`), of workers (:mod:`~qbridge_core.contract.consuming`)
and of those who operate queues (:mod:`~qbridge_core.contract.operations`, :mod:`~qbridge_core.contract.diagnosing`);
what holds for all is said here.

**Threads.** Every method may be called from any thread. ``receive`` for one queue is called by one thread at a
time, and ``receive_any`` counts as a ``receive`` for each of its queues; all other methods may be called while they
block.

**Delivery.** A delivery belongs to the client that received it until it is settled, once, by ``ack`` or ``reject``;
the first settlement counts and later ones do nothing. What is unsettled when the client disconnects, or when its
process dies, is delivered again by the broker, at once and uncounted in the first case. While its client lives and is
connected, a delivery stays its own, however long its task takes: a lease is renewed.

**Before ``connect`` and after ``disconnect``** each call that needs the broker raises
:class:`~qbridge_core.errors.NotConnectedError` at once; ``unsubscribe``, ``subscribe`` and ``flush`` may do nothing
instead. A delivery from before a ``disconnect`` is not the client's any more: settling it raises
:class:`~qbridge_core.errors.DeliveryLostError` or, where the backend can, is carried out. What was declared is
remembered over ``disconnect`` and ``connect``. A client belongs to the process that connected it: in a forked child it
is not connected, and nothing that the child does with it reaches its parent's connection.

**Connection loss.** A connected client finds its connection again by itself, with backoff and for ever, until
``disconnect``. Meanwhile calls raise :class:`~qbridge_core.errors.BrokerUnavailableError` (``receive`` after
waiting for its timeout), and settlements of deliveries that the broker will hand out again raise
:class:`~qbridge_core.errors.DeliveryLostError` or, where the backend can still carry them out, succeed. A broker that
is silent is as good as gone: each call ends in bounded time. Queues that the broker has lost are declared again.

**Message ids** are kept and are no keys: two messages with one id are two messages.

**Errors.** Only errors of :mod:`qbridge_core.errors` cross this boundary, with the driver's as ``__cause__``. No
password is in any of them, in their causes, in a log or in a ``repr``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import ClassVar, Self

from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.diagnosing import Diagnosing
from qbridge_core.contract.events import ConnectionEvents, Hooks
from qbridge_core.contract.older import keep_up, refuse_what_is_new
from qbridge_core.contract.operations import Operations
from qbridge_core.contract.producing import Producing
from qbridge_core.runtime.pulse import Pulse

_NO_CAPABILITIES = Capabilities()


class QueueClient(Operations, Diagnosing):
    """A connection to one message broker. Create it through :func:`qbridge_core.connect` or a backend's class."""

    logs_outages: ClassVar[bool] = False
    """True when the client itself logs that its connection is lost (one WARNING: what, why, and that it reconnects), a
    reminder each minute, and one INFO line with the duration when it is back. Workers are silent about it then."""

    system: str = "other"
    """Which kind of broker this is, by the name that OpenTelemetry has for it (``messaging.system``), for hooks."""

    server: tuple[str, int | None] | None = None
    """Where the broker is, for hooks: its host, or the path of a socket, and its port where there is one. None where it
    may be any of several servers, and for a broker that is no server."""

    reads_ahead: ClassVar[bool] = True
    """False for a client that holds nothing which ``receive`` has not returned, for longer than a moment: then it makes
    no difference to others whether a queue is subscribed that nobody receives from for a while."""

    waits_for_any: bool = False
    """True for a client whose ``receive_any`` waits for all queues at once, however many, and does not ask each of them
    again and again. Coroutines' workers of many queues share a thread that reads then, as long as nothing comes."""

    events: ConnectionEvents | None = None
    """Where the client tells that its connection is lost and is back, for hooks; None for one that does not tell."""

    hooks: Hooks | None = None
    """What calls the hooks of plugins; see :func:`~qbridge_core.use_plugins`."""

    # Until when a worker that starts waits for what is not up yet (monotonic time): the ``start_timeout`` of connect.
    _awaited_until: float = 0.0

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        refuse_what_is_new(cls)
        keep_up(cls, "publish", "publish_soon", Producing.publish_soon)
        keep_up(cls, "publish_soon", "_publish_then", Producing._publish_then)

    @property
    def capabilities(self) -> Capabilities:
        """What this client can do. A class attribute of a backend takes its place, or a property of the instance.

        It may depend on the URL, the options or the server, and is read when the client is connected.
        """
        return _NO_CAPABILITIES

    # ------------------------------------------------------------------ connection

    @property
    @abstractmethod
    def connected(self) -> bool:
        """True between ``connect`` and ``disconnect``, also while a lost connection is being rebuilt."""

    @abstractmethod
    def connect(self) -> None:
        """Connect. Does nothing when already connected. Blocks at most for the backend's connect timeout.

        A broker that does not answer is one that cannot be reached.

        Raises:
            BrokerUnavailableError: the broker cannot be reached.
            AuthenticationError: it refused the credentials or the virtual host.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Flush the settlements, close, and give unsettled deliveries back to the broker.

        Others get those at once, however long their leases are, and nothing is counted. Never raises for a broker that
        is gone, takes bounded time, and does nothing when not connected. Blocked calls of other threads end at once.
        """

    def pulses(self) -> Sequence[Pulse]:
        """Of its own threads, those without which it does not work; in any thread, and without waiting for anybody.

        Each thread shows by its pulse that it turns, so that a probe finds one that hangs. The default says of none.
        """
        return ()

    # ------------------------------------------------------------------ queues

    @abstractmethod
    def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the queue (and its dead-letter queue) where missing, and remember the pair for ``reject``.

        A queue that exists already is used as it is, never changed or deleted. Idempotent; after a reconnect the
        client repeats it by itself. Without a ``dead_letter_queue`` rejected messages go to ``<queue>.dead``, which is
        created when it is first needed. Declared again without one, the pair stays as it is; with another one, that
        counts for what is rejected from then on.

        Raises:
            BrokerUnavailableError: no connection.
            QueueMismatchError: the name is taken by something that cannot serve as a queue.
            ConfigurationError: no queue can have one of the names, or they are the same.
        """

    # ------------------------------------------------------------------ context manager

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.disconnect()
