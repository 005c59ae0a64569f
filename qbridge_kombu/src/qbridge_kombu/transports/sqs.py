"""Amazon SQS: the service keeps what is not deleted (class A), and lends it for a time that is renewed."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kombu.connection import Connection

from qbridge_core.backend import (
    BrokerURL,
    Capabilities,
    Check,
    ConfigurationError,
    Finding,
    MessageTooLargeError,
    OptionReader,
    UnroutableError,
    logger,
    monotonic,
    option_count,
)
from qbridge_kombu.options import option_flag, option_text
from qbridge_kombu.protocol.headers import is_copy
from qbridge_kombu.protocol.messages import Outgoing, Received
from qbridge_kombu.protocol.names import encoded
from qbridge_kombu.transports.base import DETAILS, Transport
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.sqs_messages import envelope, received
from qbridge_kombu.transports.sqs_queues import LARGEST, Queues
from qbridge_kombu.transports.sqs_region import check_host, option_region, require_region

if TYPE_CHECKING:
    from qbridge_kombu.transports.sqs_service import Service  # botocore is imported when a client connects

log: Final = logger("qbridge.kombu")
_AT_ONCE: Final = 10
_LONGEST_NAME: Final = 80
_EXPLANATION: Final = 65_536  # bytes: the longest that a dead letter adds, with room for what JSON escapes
_REPLAYED: Final = 4096  # bytes: a dead letter that is sent back has a message id and a longer name, perhaps
_SURELY_FITS: Final = 100_000
_LONGEST_HOLD: Final = 12 * 3600
_LONGEST_WAIT: Final = 20
_LONGEST_DELAY: Final = 900
_CONNECTIONS: Final = 64
_PURGE_SECONDS: Final = 1.0
_SERVICE: Final = "service"


def _option_lease(name: str, value: object) -> int:
    seconds = option_count(name, value)
    if seconds > _LONGEST_HOLD:
        raise ConfigurationError(f"option {name} must be at most {_LONGEST_HOLD} s, not {seconds}")
    return seconds


def _option_wait(name: str, value: object) -> int:
    seconds = option_count(name, value)
    if seconds > _LONGEST_WAIT:
        raise ConfigurationError(f"option {name} must be at most {_LONGEST_WAIT} s, not {seconds}")
    return seconds


class SQSTransport(Transport):
    """``kombu+sqs://``: standard queues of Amazon SQS, or of a server that speaks its protocol.

    One client of boto3's, which kombu's channel makes, serves all sessions: it is thread-safe, has connections for each
    request, and is told to repeat nothing.
    """

    keeps_unacknowledged = True
    required = "boto3"
    options: ClassVar[Mapping[str, OptionReader]] = {
        "region": option_region,
        "tls": option_flag,
        "session_token": option_text,
        "lease": _option_lease,
        "wait_time": _option_wait,
    }
    hints: ClassVar[Mapping[str, str]] = {
        "is_secure": "say tls",
        "polling_interval": "nothing is polled: a request waits at the service, for wait_time seconds",
        "visibility_timeout": "say lease; it is renewed while the worker lives, so it need not be as long as a task",
        "wait_time_seconds": "say wait_time",
    }
    capabilities = Capabilities(
        delay=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        ordered=False,
        exact_stats=False,
        details=DETAILS | {"unsettled"},
        queues=True,
        sent_at=True,
        history=True,
        imports=True,
    )
    longest_task = float(_LONGEST_HOLD)
    max_native_delay = float(_LONGEST_DELAY)
    delayed_look = 5.0
    publish_batch = _AT_ONCE
    receive_batch = _AT_ONCE
    acknowledge_batch = _AT_ONCE
    tells_sent = True
    purges_in_parts = True
    renews = True

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        if len(url.hosts) > 1:
            raise ConfigurationError(f"{url.scheme}:// takes one host, or none for Amazon's own")
        check_host(url)
        if url.path:
            raise ConfigurationError(f"{url.scheme}:// takes no path; queues are named by the calls")
        if (url.username is None) != (url.password is None):
            raise ConfigurationError(f"{url.scheme}:// takes an access key and its secret, or neither of them")
        self.lease = float(options.get("lease", 30))
        self.blocking_receive = float(options.get("wait_time", 2))
        self.secrets = (options["session_token"],) if "session_token" in options else ()
        self._queues = Queues()
        self._lock = threading.Lock()
        self._client: Any = None
        self._client_pid = 0

    # ------------------------------------------------------------------ connection

    def connection_arguments(self) -> Mapping[str, Any]:
        """kombu's channel makes boto3's client with these; nothing is repeated behind the bridge's back."""
        from qbridge_kombu.transports import sqs_channel

        url, given = self.url, self.given
        return {
            "transport": sqs_channel.Transport,
            "hostname": (f"[{url.host}]" if ":" in url.host else url.host) or None,
            "port": url.port,
            "userid": url.username,
            "password": url.password,
            "transport_options": {
                "region": given.get("region"),
                "is_secure": given.get("tls", not _is_loopback(url.host)),
                "visibility_timeout": int(self.lease or 0),
                "client-config": {
                    "connect_timeout": given["connect_timeout"],
                    "read_timeout": given["request_timeout"] + self.blocking_receive,
                    "retries": {"total_max_attempts": 1, "mode": "standard"},
                    "max_pool_connections": _CONNECTIONS,
                },
            },
        }

    def load(self) -> None:
        """Make boto3's client: it reads the service's description."""
        require_region(self.url, self.given)
        self._shared_client(KombuSession(Connection(**self.connection_arguments()), self.closing).channel)

    def connected(self, session: KombuSession) -> None:
        """Ask the service for anything, to see that it answers and knows the credentials."""
        from qbridge_kombu.transports.sqs_service import Service

        session.channel._sqs = self._shared_client(session.channel)
        # A caller must still hear of throttling before its own time is over.
        session.notes[_SERVICE] = service = Service(session.channel._sqs, self.given["request_timeout"] / 2)
        service.look()

    def _shared_client(self, channel: Any) -> Any:
        with self._lock:
            if self._client is None or self._client_pid != os.getpid():  # a child must not use its parent's sockets
                login = channel.conninfo
                token = self.given.get("session_token")
                self._client = channel.new_sqs_client(channel.region, login.userid, login.password, token)
                self._client_pid = os.getpid()
            return self._client

    def disconnected(self) -> None:
        """Close the connections; those of a parent process are its own."""
        with self._lock:
            client, self._client = self._client, None
            if client is not None and self._client_pid == os.getpid():
                client.close()

    def translate(self, exc: Exception, doing: str) -> Exception | None:
        """What botocore's errors mean."""
        from qbridge_kombu.transports.sqs_service import meaning

        return meaning(exc, doing, None if self.url.host else self.given.get("region"))

    # ------------------------------------------------------------------ queues

    def name_of(self, queue: str) -> str:
        """Letters, digits, hyphens and underscores; a point is written as ``_x2e``."""
        if queue.endswith(".fifo"):
            raise ConfigurationError(
                f"{queue!r} is the name of a FIFO queue, which holds up all messages of a group while one of them is "
                "retried, and takes no delays: use a standard queue"
            )
        return encoded(queue, allowed="A-Za-z0-9_-", escape="_x", most=_LONGEST_NAME)

    def exists(self, session: KombuSession, name: str) -> bool:
        """Ask for its URL."""
        return self._queues.find(_service(session), name) is not None

    def create(self, session: KombuSession, name: str) -> None:
        """Create it with the longest retention; one that exists is used as it is, and looked at."""
        self._queues.create(_service(session), name)

    def findings(self, session: KombuSession, name: str, check: Check) -> Iterable[Finding]:
        """How long it keeps messages, and whether the service itself moves them."""
        return self._queues.findings(_service(session), name, check)

    def size(self, session: KombuSession, name: str) -> int:
        """About how many wait."""
        return self._queues.count(_service(session), name, "ApproximateNumberOfMessages")

    def delayed(self, session: KombuSession, name: str) -> int:
        """About how many wait for their time."""
        return self._queues.count(_service(session), name, "ApproximateNumberOfMessagesDelayed")

    def in_flight(self, session: KombuSession, name: str) -> int:
        """About how many consumers hold."""
        return self._queues.count(_service(session), name, "ApproximateNumberOfMessagesNotVisible")

    def purge(self, session: KombuSession, name: str) -> int:
        """Receive and delete for a moment: the service's own purge deletes what is in flight or delayed, too."""
        purged, end = 0, monotonic() + _PURGE_SECONDS
        while monotonic() < end:
            try:
                some = self.receive(session, name, _AT_ONCE, 0.0)
            except UnroutableError:
                break
            if not some:
                break
            self.acknowledge(session, name, some)
            purged += len(some)
        return purged

    # ------------------------------------------------------------------ messages

    def check_size(self, message: Outgoing) -> None:
        """All of a message counts: its headers, and what JSON adds."""
        if len(message.body) + sum(len(value) for value in message.headers.values()) > _SURELY_FITS:
            _check_room(len(envelope(message, "").encode()) + _LONGEST_NAME, LARGEST)

    def publish(self, session: KombuSession, name: str, messages: Sequence[Outgoing], timeout: float) -> None:
        """Send up to ten in one request, or as many as may go in one."""
        queue = self._queues.require(_service(session), name)
        entries: list[dict[str, Any]] = []
        sizes: list[int] = []
        for number, message in enumerate(messages):
            text = envelope(message, name)
            sizes.append(len(text.encode()))
            _check_room(sizes[-1], queue.largest + (_EXPLANATION if is_copy(message.headers) else _REPLAYED))
            entry: dict[str, Any] = {"Id": str(number), "MessageBody": text}
            if message.delay > 0:
                entry["DelaySeconds"] = math.ceil(message.delay)
            entries.append(entry)
        deadline, doing = monotonic() + timeout, f"publish to {name!r}"
        for some in _parts(entries, sizes):
            left = max(0.0, deadline - monotonic())
            if failed := self._queues.ask_for_each(_service(session), name, "send_message_batch", doing, some, left):
                raise _entry_error(failed[0], doing)

    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Ask once; the lease goes with the request, so the queue's own visibility timeout does not matter.

        Whole seconds are waited for, at the service, or less than one here. Without waiting the service asks a part of
        its servers only: when it counts messages and found none, it is asked again in the other way.
        """
        found = self._receive(session, name, count, math.ceil(min(wait, self.blocking_receive)))
        if not found and wait <= 0 and self.size(session, name):
            found = self._receive(session, name, count, 1)
        return found

    def _receive(self, session: KombuSession, name: str, count: int, wait: int) -> list[Received]:
        reply = self._queues.ask(
            _service(session), name, "receive_message", f"receive from {name!r}",
            MaxNumberOfMessages=min(count, _AT_ONCE), WaitTimeSeconds=wait, VisibilityTimeout=int(self.lease or 0),
            MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"], MessageAttributeNames=["All"],
        )  # fmt: skip
        now = monotonic()
        return [received(raw, now) for raw in reply.get("Messages", ())]

    def acknowledge(self, session: KombuSession, name: str, received: Sequence[Received]) -> None:
        """Delete them; the receipt of one that the service has taken back may not delete it any more."""
        entries = [{"Id": str(number), "ReceiptHandle": each.handle.receipt} for number, each in enumerate(received)]
        try:
            failed = self._queues.ask_for_each(
                _service(session), name, "delete_message_batch", f"acknowledge in {name!r}", entries
            )
        except UnroutableError:
            return  # they are gone with their queue
        for failure in failed:
            log.info("a message of %r that is done may come again: its lease was over (%s)", name, failure.get("Code"))

    def release(self, session: KombuSession, name: str, received: Sequence[Received]) -> bool:
        """End their leases; the service counts that as a delivery, so they are suspected next time."""
        return not self._change(session, name, received, f"give back to {name!r}", 0)

    def renew(self, session: KombuSession, name: str, received: Sequence[Received]) -> list[Received]:
        """Begin the leases anew, up to the twelve hours.

        None is given up, also if that fails: when the service delivers such a message to this client again, it is
        recognized, and the run that goes on has it.
        """
        for failure in self._change(session, name, received, f"renew leases of {name!r}", int(self.lease or 0)):
            log.debug("the lease of a message of %r is over: %s", name, failure.get("Code"))
        return []

    def _change(
        self, session: KombuSession, name: str, received: Sequence[Received], doing: str, seconds: int
    ) -> list[dict[str, Any]]:
        now = monotonic()
        entries = [
            {
                "Id": str(number),
                "ReceiptHandle": each.handle.receipt,
                "VisibilityTimeout": max(0, min(seconds, int(_LONGEST_HOLD - (now - each.handle.received_at)))),
            }
            for number, each in enumerate(received)
        ]
        return self._queues.ask_for_each(_service(session), name, "change_message_visibility_batch", doing, entries)


def _service(session: KombuSession) -> Service:
    service: Service = session.notes[_SERVICE]
    return service


def _check_room(size: int, largest: int) -> None:
    if size > largest - _EXPLANATION:
        raise MessageTooLargeError(
            f"the message has {size} bytes with its headers, and the queue takes {largest - _EXPLANATION}, so that the "
            "explanation of a dead letter still fits beside it"
        )


def _parts(entries: list[dict[str, Any]], sizes: list[int]) -> Iterator[list[dict[str, Any]]]:
    """As many at once as the service takes: ten, and together no more than one may have."""
    some: list[dict[str, Any]] = []
    total = 0
    for entry, size in zip(entries, sizes, strict=True):
        if some and (len(some) == _AT_ONCE or total + size > LARGEST):
            yield some
            some, total = [], 0
        some.append(entry)
        total += size
    if some:
        yield some


def _entry_error(failure: Mapping[str, Any], doing: str) -> Exception:
    from qbridge_kombu.transports.sqs_service import entry_error

    return entry_error(failure, doing)


def _is_loopback(host: str) -> bool:
    """Whether connections to it leave this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
