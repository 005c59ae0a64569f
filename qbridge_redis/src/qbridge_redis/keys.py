"""The names of a queue's keys. They are public: programs in other languages write to them."""

from __future__ import annotations

from typing import Final

from qbridge_core import check_queue_name

_DELAYED: Final = ":delayed"


class Keys:
    """From queue names to Redis keys, with the prefix that several installations on one server may need.

    The stream of a queue is ``<prefix><queue>``, the sorted set of its delayed messages ``<prefix><queue>:delayed``.
    A dead-letter queue is a queue like any other.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._streams: dict[str, bytes] = {}

    def stream(self, queue: str) -> bytes:
        """The key of a queue's stream.

        Raises:
            ConfigurationError: the name is not one that every broker can carry.
        """
        key = self._streams.get(queue)
        if key is None:
            key = self._streams[queue] = (self._prefix + check_queue_name(queue)).encode()
        return key

    def delayed(self, queue: str) -> bytes:
        """The key of the sorted set that holds a queue's delayed messages."""
        return self.stream(queue) + _DELAYED.encode()
