"""The names of a queue's keys. They are public: programs in other languages write to them."""

from __future__ import annotations

from typing import Final

from qbridge_core import ConfigurationError

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
            ConfigurationError: the name is not a non-empty string.
        """
        key = self._streams.get(queue)
        if key is None:
            key = self._streams[queue] = self._checked(queue)
        return key

    def delayed(self, queue: str) -> bytes:
        """The key of the sorted set that holds a queue's delayed messages."""
        return self.stream(queue) + _DELAYED.encode()

    def _checked(self, queue: str) -> bytes:
        if not isinstance(queue, str) or not queue:
            raise ConfigurationError(f"a queue name must be a non-empty string, not {queue!r}")
        return (self._prefix + queue).encode("utf-8", "surrogatepass")
