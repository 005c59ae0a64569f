"""What a message is recognized by when it comes back after the loss of its channel.

That is worked out only when a channel has been lost; until then what it is worked out from is kept.
"""

from __future__ import annotations

from typing import Final

from qbridge_rabbitmq.amqp import copies, headers

Key = tuple[str, str, str, bytes]
"""Queue, message id, which copy, body or its fingerprint."""
Trace = tuple[bytes, bytes]
"""The properties of a message, and its body or its fingerprint."""
_SHORT_BODY: Final = 256
_LONG_BODY: Final = 256 * 1024


def trace(properties: bytes, body: bytes) -> Trace:
    """What to keep of a message in place of it."""
    return properties, body if len(body) <= _SHORT_BODY else _fingerprint(body)


def _fingerprint(body: bytes) -> bytes:
    # hashlib gives the interpreter's lock away, and each time a worker thread that waits for it takes a turn: with a
    # message of some KB that costs more than all else. The interpreter's own keyed hash keeps it; for a long body that
    # would hold up the others. Nothing of it leaves the process.
    return _digest(body) if len(body) > _LONG_BODY else b"%d %d" % (len(body), hash(body))


def _digest(data: bytes) -> bytes:
    # A worker that meets no such message does without the module and its memory.
    from hashlib import sha256

    return sha256(data).digest()


def key_of(queue: str, trace: Trace) -> Key | None:
    """What a message is recognized by; None for one that nothing of ours tells from others.

    The message id of a foreign producer may stand on many messages, with equal bodies too. Taking one for another would
    acknowledge what nobody has run, so such a message runs again instead.
    """
    key = likeness(queue, trace)
    return key if key[1] and key[2] else None


def likeness(queue: str, trace: Trace) -> Key:
    """What a message looks like; others may look the same."""
    content = headers.read(trace[0])
    return queue, content.message_id or "", content.mark, trace[1]


def exact(queue: str, properties: bytes, body: bytes) -> Key:
    """The same for what is taken for equal only when nothing that anybody wrote on it differs."""
    key = likeness(queue, trace(properties, body))
    return key if key[2] else (queue, key[1], _digest(copies.uncounted(properties)).hex(), key[3])
