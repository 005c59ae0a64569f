"""How large a message may be, so that everything can be done with it that may become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from qbridge_core.backend import MessageTooLargeError

_MOST_HEADERS: Final = 20_000  # a script copies 25,000 fields at most, QBridge's own among them
_RESERVE: Final = 64 * 1024  # for what a dead letter says, and for the names of command and keys
_ALWAYS_FITS: Final = 64 * 1024  # the least that can be set for either limit is a mebibyte, see config.c in Redis
_ENTRY: Final = 1 << 30  # a stream's entry, see STREAM_LISTPACK_MAX_SIZE in Redis' t_stream.c


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server takes; https://redis.io/docs/latest/operate/oss_and_stack/management/config-file/.

    Attributes:
        value: bytes of the body or of a header (``proto-max-bulk-len``).
        command: bytes of a whole message, with room for what is added to it (``client-query-buffer-limit``).
    """

    value: int = 512 * 1024 * 1024
    command: int = _ENTRY - _RESERVE

    @classmethod
    def of(cls, config: Mapping[str, str]) -> Limits:
        """Those of a server, or the server's defaults where it does not tell."""
        usual = cls()
        value = _number(config.get("proto-max-bulk-len"), usual.value)
        query = _number(config.get("client-query-buffer-limit"), _ENTRY)
        return cls(value, min(usual.command, query - _RESERVE))

    def check(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Refuse a message that could not be settled later.

        Raises:
            MessageTooLargeError: it is too large.
        """
        characters = sum(map(len, headers)) + sum(map(len, headers.values())) if headers else 0
        if len(body) + 4 * characters + 32 * len(headers) <= _ALWAYS_FITS:
            return  # nearly each message: its headers need not be encoded for this
        if len(body) > self.value:
            raise MessageTooLargeError(f"the body has {len(body)} bytes, and this server takes at most {self.value}")
        if len(headers) > _MOST_HEADERS:
            raise MessageTooLargeError(f"a message with {len(headers)} headers; there may be {_MOST_HEADERS:,} of them")
        size = len(body)
        for name, value in headers.items():
            length = len(value.encode())
            if length > self.value:
                raise MessageTooLargeError(
                    f"the header {name!r} has {length} bytes, more than the {self.value} allowed"
                )
            size += len(name) + length + 32
        if size > self.command:
            raise MessageTooLargeError(f"the message has {size} bytes, and this server takes at most {self.command}")


def _number(text: str | None, usual: int) -> int:
    return int(text) if text is not None and text.isdigit() and int(text) > 0 else usual
