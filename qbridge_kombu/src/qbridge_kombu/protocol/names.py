"""Names of queues for brokers that cannot have every name."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_DIGEST: Final = 16


def encoded(name: str, *, allowed: str, escape: str, most: int) -> str:
    """A name that a broker can have: another one for each name, and the same for one that it can have anyway.

    Each byte of a character that is not allowed is written as the escape and two hexadecimal digits. What is too long
    ends with a digest of the whole.

    Args:
        name: what QBridge calls the queue.
        allowed: the characters that the broker can have, as the inside of a class in a regular expression.
        escape: an allowed character (or a few), which is escaped itself where it stands in a name before two digits.
        most: how many bytes in UTF-8 a name may have.
    """
    written = _escaped(name, allowed, escape)
    whole = written.encode()
    if len(whole) <= most:
        return written
    digest = hashlib.sha256(name.encode()).hexdigest()[:_DIGEST]
    beginning = whole[: most - _DIGEST - len(escape)].decode("utf-8", "ignore")
    return f"{beginning}{escape}{digest}"


def decoded(name: str, escape: str) -> str:
    """What such a name was made of, if nothing of it was cut off."""

    def read(found: re.Match[str]) -> str:
        return bytes.fromhex(found.group().replace(escape, "")).decode("utf-8", "replace")

    return re.sub(rf"(?:{re.escape(escape)}[0-9a-f]{{2}})+", read, name)


def _escaped(name: str, allowed: str, escape: str) -> str:
    def escaped(found: re.Match[str]) -> str:
        return "".join(f"{escape}{byte:02x}" for byte in found.group().encode())

    ambiguous = re.escape(escape) + r"(?=[0-9a-f]{2})"
    return re.sub(rf"{ambiguous}|[^{allowed}]", escaped, name)
