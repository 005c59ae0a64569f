"""The names of a queue's keys. They are public: programs in other languages write to them."""

from __future__ import annotations

import re
from typing import Final

from redis.crc import key_slot

from qbridge_core.backend import ConfigurationError, check_queue_name

_DELAYED: Final = b":delayed"
_PAUSED: Final = b":paused"
_REMEMBERED: Final = 10_000


class Keys:
    """From queue names to Redis keys, with the prefix that several installations on one server may need.

    The stream of a queue is ``<prefix><queue>``, the sorted set of its delayed messages ``<prefix><queue>:delayed``,
    and ``<prefix><queue>:paused`` a sorted set that exists while it is paused. A dead-letter queue is a queue like any
    other.

    On a cluster all keys must have one hash slot. A stream's name that has a hash tag (``{emails}.dead``) gives it to
    all; for any other name the sorted set is ``{<prefix><queue>}:delayed``, which has the slot of the name itself.
    """

    def __init__(self, prefix: str, *, cluster: bool = False) -> None:
        self._prefix = prefix
        self._cluster = cluster
        self._streams: dict[str, bytes] = {}
        self._slots: dict[str, int] = {}

    def stream(self, queue: str) -> bytes:
        """The key of a queue's stream.

        Raises:
            ConfigurationError: the name is not one that every broker can carry.
        """
        try:
            return self._streams[queue]
        except (KeyError, TypeError):  # what cannot be a key is no name either
            if len(self._streams) >= _REMEMBERED:
                self._streams.clear()  # a cache only
            key = self._streams[queue] = (self._prefix + check_queue_name(queue)).encode()
        return key

    def queue(self, key: bytes) -> str | None:
        """The name of the queue whose stream has this key; ``None`` for one that no queue can have."""
        try:
            text = key.decode()
            return check_queue_name(text.removeprefix(self._prefix)) if text.startswith(self._prefix) else None
        except (UnicodeDecodeError, ConfigurationError):
            return None

    def pattern(self) -> str:
        """What matches the keys of all streams, as ``SCAN`` understands it."""
        return re.sub(r"([\\\[\]*?])", r"\\\1", self._prefix) + "*"

    def check_new(self, queue: str) -> None:
        """Refuse the name of a queue that would be that of another one's delayed messages.

        Raises:
            ConfigurationError: it is one, or the name is unusable.
        """
        self.slot(queue)
        if self.stream(queue).endswith(_DELAYED):
            raise ConfigurationError(
                f"on Redis the name of a queue must not end in ':delayed', as {queue!r} does: the key holds the "
                "delayed messages of the queue without it"
            )

    def delayed(self, queue: str) -> bytes:
        """The key of the sorted set that holds a queue's delayed messages."""
        return self._beside(queue) + _DELAYED

    def paused(self, queue: str) -> bytes:
        """The key of the mark that a queue is paused."""
        return self._beside(queue) + _PAUSED

    def _beside(self, queue: str) -> bytes:
        """What the other keys of a queue begin with."""
        stream = self.stream(queue)
        return stream if not self._cluster or _has_tag(stream) else b"{" + stream + b"}"

    def slot(self, queue: str) -> int:
        """The hash slot of a queue on a cluster; 0 where there is none.

        Raises:
            ConfigurationError: the name is unusable.
        """
        try:
            return self._slots[queue]
        except (KeyError, TypeError):  # what cannot be a key is no name either
            check_queue_name(queue)
        if len(self._slots) >= _REMEMBERED:
            self._slots.clear()
        slot = self._slots[queue] = self._find_slot(queue) if self._cluster else 0
        return slot

    def _find_slot(self, queue: str) -> int:
        slot = key_slot(self.stream(queue))
        if key_slot(self.delayed(queue)) != slot:
            raise ConfigurationError(
                f"on a cluster the queue name {queue!r} needs a text between its braces, as in '{{emails}}.dead'"
            )
        return slot

    def together(self, queue: str, other: str) -> bool:
        """Whether one script can write to both queues."""
        return self.slot(queue) == self.slot(other)


def _has_tag(key: bytes) -> bool:
    """Whether the slot comes from a part of the key: from what is between its first ``{`` and the next ``}``."""
    start = key.find(b"{")
    return start >= 0 and key.find(b"}", start + 1) > start + 1
