"""pika's connection with the content headers left as the bytes they are.

pika decodes the properties and headers of each message. That costs time, loses information (a double becomes an
integer), and kills the connection for headers that it cannot decode, again with each redelivery. Here they stay
bytes; :mod:`qbridge_rabbitmq.amqp.headers` reads what is needed and copies the rest unread. The frames that come and go
by the thousand do not become pika's objects at all; see :mod:`qbridge_rabbitmq.amqp.frames`.

The overridden methods are private in pika; :mod:`qbridge_rabbitmq.amqp.internals` lists them and sees that they are
there.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import pika
from pika import frame, spec
from pika.adapters.select_connection import IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.channel import Channel

from qbridge_rabbitmq.amqp import frames, internals, protocols
from qbridge_rabbitmq.amqp.frames import Confirmed, Sink

_FRAME_HEADER: Final = struct.Struct(">BHI")
_CONTENT_HEADER: Final = struct.Struct(">HHQ")
_FRAME_END: Final = 0xCE
_OVERHEAD: Final = _FRAME_HEADER.size + 1
# pika reads 4 KiB at a time, and after each such call this thread may have to wait for its turn among the workers.
_READ_BYTES: Final = 128 * 1024


internals.require()


class RawProperties(spec.BasicProperties):
    """The properties of a message as they are on the wire, flags included."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    def encode(self) -> list[bytes]:
        """What pika writes into a content header."""
        return [self.raw]

    def __repr__(self) -> str:
        return f"<RawProperties, {len(self.raw)} bytes>"


def raw_properties(properties: spec.BasicProperties) -> bytes:
    """The bytes of the properties, flags included."""
    return properties.raw if isinstance(properties, RawProperties) else b"".join(properties.encode())


def retire_consumer(channel: Channel, consumer_tag: str) -> None:
    """Cancel a consumer without waiting; what it was sent before still comes (pika's own cancel would reject it)."""
    # Not past what pika holds back: its own ``basic.consume`` may be among that, and would start it after its end.
    cancel = spec.Basic.Cancel(consumer_tag=consumer_tag, nowait=True)
    channel._rpc(cancel, None, [])  # type: ignore[attr-defined]


def end_consumer(channel: Channel, consumer_tag: str, ended: Callable[[Any], None]) -> None:
    """Cancel a consumer; what it was sent before still comes, and then ``ended`` is called."""
    cancel = spec.Basic.Cancel(consumer_tag=consumer_tag, nowait=False)
    channel._rpc(cancel, ended, [(spec.Basic.CancelOk, {"consumer_tag": consumer_tag})])  # type: ignore[attr-defined]


def forget_consumers(channel: Channel, consumer_tags: Collection[str]) -> None:
    """Release what pika keeps for consumers that were cancelled so, when nothing more can come for them."""
    consumers: dict[str, object] = getattr(channel, "_consumers", {})
    for consumer_tag in consumer_tags:
        consumers.pop(consumer_tag, None)


class _Services(SelectorIOServicesAdapter):
    """What pika's connections use of the loop; knows the socket of a connection that is being made."""

    def __init__(self, ioloop: Any) -> None:
        super().__init__(ioloop)
        self._connecting: socket.socket | None = None
        self._starting: Any = None

    def getaddrinfo(self, host: str | bytes | None, *args: Any, **kwargs: Any) -> Any:
        """Look a name up; as bytes, for Python puts any other through its codec for foreign letters, half a MiB."""
        if isinstance(host, str) and host.isascii():
            host = host.encode()
        return super().getaddrinfo(host, *args, **kwargs)

    def connect_socket(self, sock: socket.socket, *args: Any, **kwargs: Any) -> Any:
        """Connect, to one address after the other."""
        self._connecting = sock
        return super().connect_socket(sock, *args, **kwargs)

    def create_streaming_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Make a transport of a socket that is connected, after the handshake of TLS."""
        self._starting = super().create_streaming_connection(*args, **kwargs)
        return self._starting

    def let_go(self) -> None:
        """Close the socket for which there is no transport yet."""
        # TLS has put another object into its place, which only the task of the handshake has.
        task = getattr(getattr(self._starting, "_cancel", None), "__self__", None)
        for sock in (self._connecting, getattr(task, "_sock", None)):
            if sock is not None:
                sock.close()


class AmqpConnection(pika.SelectConnection):
    """A ``SelectConnection`` whose messages carry :class:`RawProperties`. For the I/O thread only.

    Attributes:
        sinks: who takes the deliveries of a consumer, by its tag, past pika.
        confirmed: who takes the confirmations of a channel, past pika.
        after_reading: called once, when all that was read from the socket at once has been dealt with.
        largest_body: the server's ``max_message_size``, when it has refused a message for it; 0 before.
    """

    if TYPE_CHECKING:  # what the type stubs leave out
        _frame_buffer: bytes
        _transport: Any
        bytes_received: int
        bytes_sent: int
        frames_received: int
        frames_sent: int

        def _adapter_emit_data(self, data: bytes) -> None: ...

        def _process_frame(self, frame_value: Any) -> None: ...

        def _terminate_stream(self, error: Exception | None) -> None: ...

    def __init__(self, parameters: pika.ConnectionParameters, *, ioloop: IOLoop, **callbacks: Any) -> None:
        self._services = _Services(ioloop)
        self.sinks: dict[bytes, Sink] = {}
        self.confirmed: dict[int, Confirmed] = {}
        self.after_reading: list[Callable[[], None]] = []
        self.largest_body = 0
        self._greeted = self._abandoned = False
        self._pieces: list[bytes] = []  # of a message, behind the buffer
        self._missing = 0
        super().__init__(parameters, custom_ioloop=self._services, **callbacks)

    @property
    def largest_properties(self) -> int:
        """How many bytes the properties of a message may have; known once the connection is open."""
        return self.params.frame_max - frames.HEADER_OVERHEAD

    def read_more_at_once(self) -> None:
        """Read larger pieces from the socket, where pika's transport can be told to."""
        if hasattr(self._transport, "_MAX_RECV_BYTES"):
            with suppress(AttributeError):
                self._transport._MAX_RECV_BYTES = _READ_BYTES

    def _on_data_available(self, data_in: bytes) -> None:
        if not self._greeted:
            self._greeted = True
            if other := protocols.foreign(data_in):
                self.abandon(protocols.OtherProtocol(other))
                return
        try:
            self._read_frames(data_in)
        finally:
            while self.after_reading:
                self.after_reading.pop()()

    def _read_frames(self, data_in: bytes) -> None:
        self.bytes_received += len(data_in)  # of a long message too, which may take longer than a heartbeat
        if len(data_in) < self._missing:
            self._missing -= len(data_in)
            self._pieces.append(data_in)
            return
        self._frame_buffer = b"".join((self._frame_buffer, *self._pieces, data_in))
        self._pieces, self._missing = [], 0
        while self._frame_buffer:
            if self.sinks or self.confirmed:
                size, count, self._missing = frames.read_ahead(
                    self._frame_buffer, self.sinks, self.confirmed, self.params.frame_max
                )
                if size:
                    self.frames_received += count
                    self._frame_buffer = self._frame_buffer[size:]
                if self._missing:
                    return
            size, frame_value = self._read_frame()
            if not frame_value:
                return
            self._frame_buffer = self._frame_buffer[size:]
            self._process_frame(frame_value)

    def _read_frame(self) -> tuple[int, Any]:
        data = self._frame_buffer
        if len(data) >= _OVERHEAD + _CONTENT_HEADER.size and data[0] == spec.FRAME_HEADER:
            _, channel, size = _FRAME_HEADER.unpack_from(data)
            end = size + _OVERHEAD
            if len(data) >= end and data[end - 1] == _FRAME_END:
                _, _, body_size = _CONTENT_HEADER.unpack_from(data, _FRAME_HEADER.size)
                raw = bytes(data[_FRAME_HEADER.size + _CONTENT_HEADER.size : end - 1])
                return end, frame.Header(channel, body_size, RawProperties(raw))
        return frame.decode_frame(data)

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        # One write for the three frames of a message instead of three.
        self.bytes_sent += sum(map(len, marshaled_frames))
        self.frames_sent += len(marshaled_frames)
        data = b"".join(marshaled_frames)
        if sent := self._send_now(data):
            data = data[sent:]
        if data:
            self._adapter_emit_data(data)

    def _send_now(self, data: bytes) -> int:
        """Write what the socket takes at once; how much that was. pika would first have its loop ask whether it may."""
        transport = self._transport
        try:
            is_free = transport._state == transport._STATE_ACTIVE and not transport.get_write_buffer_size()
            sock = transport._sock
        except AttributeError:
            return 0  # another version of pika
        if not is_free or type(sock) is not socket.socket:
            return 0  # what was written before must go first; or TLS, which may have to read before it can write
        try:
            return sock.send(data)
        except OSError:
            return 0  # full, or broken: pika finds that out, and knows what to do

    def send_acks(self, channel: int, numbers: Iterable[tuple[int, bool]]) -> None:
        """Write ``basic.ack`` frames for (tag, multiple) pairs, all at once."""
        if acks := frames.acks(channel, numbers):
            self._output_marshaled_frames(acks)

    def send_messages(self, channel: int, messages: Iterable[frames.Publish]) -> None:
        """Write ``basic.publish`` frames with ``mandatory``, all at once. When that fails half way the connection ends.

        Raises:
            UnwritableError: one of the messages cannot be sent; then nothing was written.
        """
        frame_max = self.params.frame_max
        parts = [part for m in messages for part in frames.publish(channel, m, frame_max)]
        try:
            self._output_marshaled_frames(parts)
        except Exception as exc:  # noqa: BLE001 - whatever it is, nobody knows how much the broker has
            self.abandon(exc)

    def abandon(self, reason: Exception) -> None:
        """Drop the socket without waiting for the peer, who may never answer."""
        if not self.is_closed and not self._abandoned:
            self._abandoned = True  # pika may report the end of an attempt once for each time it is told to end it
            self._terminate_stream(reason)

    @property
    def unsent(self) -> int:
        """Bytes that the socket has not taken yet."""
        return int(self._transport.get_write_buffer_size()) if self._transport is not None else 0

    def let_go(self) -> None:
        """Close the descriptor and tell nobody: in a forked child, or when pika's state is not to be trusted."""
        sock = getattr(self._transport, "_sock", None)
        if sock is not None:
            sock.close()
        self._services.let_go()
