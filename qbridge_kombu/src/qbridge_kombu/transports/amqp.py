"""kombu's AMQP transport: the broker keeps what is not acknowledged (class A)."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, ClassVar, Final

import amqp

from qbridge_core.backend import (
    HISTORY,
    AuthenticationError,
    BrokerURL,
    Capabilities,
    ConfigurationError,
    MessageTooLargeError,
    OptionReader,
    QueueMismatchError,
    UnroutableError,
)
from qbridge_kombu.options import option_choice
from qbridge_kombu.protocol.headers import HEADERS, was_handed_back, was_suspected
from qbridge_kombu.protocol.messages import Outgoing, Received, prepared
from qbridge_kombu.protocol.names import encoded
from qbridge_kombu.transports.base import DETAILS, Transport
from qbridge_kombu.transports.confirms import Confirms
from qbridge_kombu.transports.session import KombuSession

_FRAME: Final = 131_072
_EXPLANATION: Final = 46_000  # bytes: the longest that a dead letter adds, with room for the names of its headers
_LAST_SECOND: Final = 253_402_300_799  # of the year 9999
_PROPERTIES: Final = 4_000  # bytes: what stands beside the headers in a frame, short strings most of all
_BROKERS_OWN: Final = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count", "x-opt-")
_MEANT_FOR_THE_BROKER: Final = {"CC", "BCC", "x-delay", "x-deaths"}
_LONGEST_NAME: Final = 255
_QUEUE_TYPES: Final = ("classic", "quorum")
_LOGIN_METHODS: Final = ("AMQPLAIN", "EXTERNAL", "GSSAPI", "PLAIN")  # those of py-amqp that take no answer from here
# Half of what a channel passes on to a quorum queue that has applied nothing of it (see docs/rabbitmq.md).
_MOST_UNAPPLIED: Final = 16
# What the broker says of a classic queue, whose type was asked for or not, to whoever wants another type.
_IS_CLASSIC: Final = re.compile(r"arg 'x-queue-type' .* but current is (none|'classic'|the value 'classic'.*)$")
# A copy with an expiration would vanish; one with the name of another user would be refused.
_NOT_COPIED: Final = {"application_headers", "expiration", "user_id", "delivery_mode"}


class AMQPTransport(Transport):
    """``kombu+amqp://``, ``kombu+amqps://``: RabbitMQ through py-amqp. ``amqp://`` of qbridge-rabbitmq does more.

    Queues are made as Celery makes them, so that both can share one; ``queue_type`` asks for another kind.
    """

    keeps_unacknowledged = True
    bound_to_session = True
    required = "kombu"
    options: ClassVar[Mapping[str, OptionReader]] = {
        "queue_type": option_choice(*_QUEUE_TYPES),
        "login_method": option_choice(*_LOGIN_METHODS),
    }
    capabilities = Capabilities(
        delay=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        details=DETAILS,
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        imports=True,
    )
    publish_batch = 500

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        if len(url.hosts) > 1:
            raise ConfigurationError(f"{url.scheme}:// takes one host; amqp:// of qbridge-rabbitmq takes several")

    def connection_arguments(self) -> Mapping[str, Any]:
        """Where the broker is. Each read and write has a deadline, which kombu does not set."""
        url = self.url
        host = url.host or "localhost"
        return {
            "hostname": host,
            "port": url.port,
            "userid": url.username or "guest",
            "password": "guest" if url.username is None else url.password or "",
            "virtual_host": url.path or "/",
            "transport": "pyamqp",
            # py-amqp compares no name with that of the certificate unless it is told which.
            "ssl": {"server_hostname": host, "cert_reqs": ssl.CERT_REQUIRED} if url.scheme.endswith("amqps") else False,
            "login_method": self.given.get("login_method", "PLAIN"),
            "connect_timeout": self.given["connect_timeout"],
            "transport_options": {
                "read_timeout": self.given["request_timeout"], "write_timeout": self.given["request_timeout"],
                "client_properties": {"connection_name": "qbridge-kombu"},
            },
        }  # fmt: skip

    def connected(self, session: KombuSession) -> None:
        """Leave bodies alone."""
        session.channel.auto_decode = False

    def closing(self, session: KombuSession) -> None:
        """Let quorum queues apply the last acknowledgements: those that wait for it in the channel end with it.

        A message that is asked for comes out of the queue's log, behind all of them. It goes back with the session, as
        one that was delivered: no classic queue is to pay for that.
        """
        if not session.raw.connected:
            return
        for name, count in session.notes.get("acknowledged", {}).items():
            if count > _MOST_UNAPPLIED:
                with suppress(Exception):  # the connection may be what has failed
                    if _may_be_quorum(session, name):
                        session.channel.basic_get(name, no_ack=False)

    def interrupt(self, session: KombuSession) -> None:
        """End the socket. One that py-amqp has given up already must not be asked for: it would connect anew."""
        if session.raw.connected and session.raw.transport.sock is not None:
            session.raw.transport.sock.shutdown(socket.SHUT_RDWR)

    def translate(self, exc: Exception, doing: str) -> Exception | None:
        """What the reply codes of AMQP mean."""
        if isinstance(exc, amqp.AccessRefused | amqp.NotAllowed):
            return AuthenticationError(f"cannot {doing}: the broker refuses it: {_text(exc)}")
        if isinstance(exc, amqp.NotFound):
            return UnroutableError(f"cannot {doing}: {_text(exc)}")
        if isinstance(exc, amqp.PreconditionFailed | amqp.ResourceLocked):
            kind = MessageTooLargeError if "larger than" in str(exc) else QueueMismatchError
            return kind(f"cannot {doing}: {_text(exc)}")
        return None

    # ------------------------------------------------------------------ queues

    def name_of(self, queue: str) -> str:
        """Any name; only the bridge's own suffixes can make one too long."""
        return encoded(queue, allowed=r"\s\S", escape="%", most=_LONGEST_NAME)

    def exists(self, session: KombuSession, name: str) -> bool:
        """Ask for it passively."""
        return self._ask(session, name) is not None

    def create(self, session: KombuSession, name: str) -> None:
        """Declare it where it is missing; one that exists is used whatever its arguments are."""
        if self._ask(session, name) is None:
            queue_type = self.given.get("queue_type")
            arguments = None if queue_type is None else {"x-queue-type": queue_type}
            channel = session.another_channel()
            try:
                channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
            finally:
                _close(channel)

    def size(self, session: KombuSession, name: str) -> int:
        """What a passive declaration counts."""
        return self._ask(session, name) or 0

    def purge(self, session: KombuSession, name: str) -> int:
        """The broker's purge."""
        return 0 if self._ask(session, name) is None else int(session.channel.queue_purge(name) or 0)

    # ------------------------------------------------------------------ messages

    def check_size(self, message: Outgoing) -> None:
        """All headers must fit into one frame, with an explanation beside them."""
        headers = _size(message.headers)
        if headers > _FRAME - _EXPLANATION:
            raise MessageTooLargeError(
                f"the headers have {headers} bytes, and {_FRAME - _EXPLANATION} fit into a frame of AMQP beside the "
                "explanation of a dead letter"
            )

    def publish(self, session: KombuSession, name: str, messages: Sequence[Outgoing], timeout: float) -> None:
        """Persistent, mandatory, and all confirmed."""
        for message in messages:
            # Without its history a copy may fit; the broker would close the connection.
            if HISTORY in message.headers and (headers := _size(message.headers)) > _FRAME - _PROPERTIES:
                raise MessageTooLargeError(f"a copy for {name!r} has {headers} bytes of headers: a frame has less room")
        confirms = session.notes.get("confirms")
        if confirms is None:
            confirms = session.notes["confirms"] = Confirms(session.raw, session.channel)
        confirms.publish(name, [_written(session.channel, message) for message in messages], timeout)

    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Get one after the other, so that nothing is held back by a prefetch."""
        known: set[str] = session.notes.setdefault("known queues", set())
        if name not in known:  # asking for one that is missing would cost the channel, and all that is in flight on it
            if not self.exists(session, name):
                raise UnroutableError(f"the queue {name!r} does not exist; declare it first")
            known.add(name)
        taken: list[Received] = []
        while len(taken) < count and (message := session.channel.basic_get(name, no_ack=False)) is not None:
            taken.append(_read(message))
        session.notes.get("acknowledged", {}).pop(name, None)  # an answer comes behind what was sent before
        return taken

    def acknowledge(self, session: KombuSession, name: str, received: Sequence[Received]) -> None:
        """One frame for each."""
        acknowledged: dict[str, int] = session.notes.setdefault("acknowledged", {})
        acknowledged[name] = acknowledged.get(name, 0) + len(received)
        for each in received:
            session.channel.basic_ack(each.handle)

    def confirm_acknowledged(self, session: KombuSession) -> None:
        """A round trip on the channel comes after the acknowledgements."""
        session.channel.basic_qos(0, 0, False)

    def release(self, session: KombuSession, name: str, received: Sequence[Received]) -> bool:
        """The broker's own requeue: nothing is lost, but the message comes back as one that was delivered."""
        for each in received:
            session.channel.basic_reject(each.handle, requeue=True)
        self.confirm_acknowledged(session)
        return True

    def _ask(self, session: KombuSession, name: str) -> int | None:
        """How many messages wait in a queue; ``None`` when it does not exist. On a channel that this may cost."""
        channel = session.another_channel()
        try:
            return int(channel.queue_declare(name, passive=True).message_count)
        except amqp.NotFound:
            return None
        finally:
            _close(channel)


def _size(headers: Mapping[str, Any]) -> int:
    """How many bytes they take, roughly."""
    return sum(len(str(name).encode()) + len(str(value).encode()) + 6 for name, value in headers.items())


def _may_be_quorum(session: KombuSession, name: str) -> bool:
    """Whether the broker does not call it a classic queue; others may have made it.

    A declaration with a type that does not exist is refused with that of the queue, and makes none where that is gone.
    """
    channel = session.another_channel()
    try:
        channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-queue-type": "which"})
    except amqp.ChannelError as exc:
        return _IS_CLASSIC.search(_text(exc)) is None
    finally:
        _close(channel)
    return True


def _close(channel: Any) -> None:
    """Close a channel that may have been closed by the broker, in which case py-amqp has opened it again."""
    if channel.connection is not None and channel.connection.connected:
        channel.close()


def _written(channel: Any, message: Outgoing) -> Any:
    """A message as py-amqp sends it: persistent, and with no header that the broker would act on."""
    properties = {**message.properties, "delivery_mode": 2}
    return prepared(channel, replace(message, headers=_packed(message.headers), properties=properties))


def _read(message: Any) -> Received:
    given = message.properties
    headers = _unpacked(given.get("application_headers") or {})
    properties = {name: value for name, value in given.items() if name not in _NOT_COPIED}
    redelivered = bool(message.delivery_info.get("redelivered"))
    body = message.body
    return Received(
        body.encode() if isinstance(body, str) else bytes(body),
        headers,
        properties,
        message.delivery_tag,
        redelivered or was_handed_back(headers),
        redelivered or was_suspected(headers),
        sent=_sent(given.get("timestamp")),
    )


def _sent(timestamp: object) -> int:
    """A producer's timestamp in milliseconds: it is in seconds (AMQP 0-9-1, 4.2.5.4), or in milliseconds already."""
    if not isinstance(timestamp, int):
        return 0
    return timestamp * 1000 if timestamp <= _LAST_SECOND else timestamp


def _packed(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Headers in which the broker sees no order to itself: those are written as a text."""
    hidden = {name: value for name, value in headers.items() if _is_the_brokers(name)}
    if not hidden:
        return dict(headers)
    return {name: value for name, value in headers.items() if name not in hidden} | {HEADERS: json.dumps(hidden)}


def _unpacked(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The producer's and QBridge's headers, without what the broker has added."""
    found = {name: value for name, value in headers.items() if not _is_the_brokers(name) and name != HEADERS}
    if HEADERS in headers:
        try:
            hidden = json.loads(headers[HEADERS])
        except (ValueError, TypeError):
            hidden = {}
        if isinstance(hidden, dict):
            found |= hidden
    return found


def _is_the_brokers(name: str) -> bool:
    return name in _MEANT_FOR_THE_BROKER or name.startswith(_BROKERS_OWN)


def _text(exc: Exception) -> str:
    return " ".join(str(exc).split())
