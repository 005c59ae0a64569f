"""The headers of a message: the producer's, QBridge's, and the bridge's own, which nobody else sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qbridge_core.backend import DUE_AT, HEADER_PREFIX, NO_HEADERS, SENT_AT, meta_int

_OWN: Final = HEADER_PREFIX + "kombu-"
DUE: Final = _OWN + "due-ms"
"""On a message in ``<queue>.delayed``: when it is due (Unix time in milliseconds)."""
HANDED_BACK: Final = _OWN + "handed-back"
"""On the copy of a message that was handed back: it was delivered before, and was perhaps suspected."""
_SUSPECTED: Final = "suspected"
_OF_NEW_ONES: Final = {DUE, DUE_AT, SENT_AT}
"""What of QBridge's headers a producer writes."""

HEADERS: Final = _OWN + "headers"
"""Headers that the broker would take for its own, as JSON."""


def split(headers: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The producer's headers, and what QBridge has to say beside them."""
    if not headers:
        return NO_HEADERS, NO_HEADERS
    if not any(name.startswith(HEADER_PREFIX) for name in headers):
        return headers, NO_HEADERS
    producers = {name: value for name, value in headers.items() if not name.startswith(HEADER_PREFIX)}
    meta = {
        name: value for name, value in headers.items() if name.startswith(HEADER_PREFIX) and not name.startswith(_OWN)
    }
    return producers or NO_HEADERS, meta or NO_HEADERS


def is_copy(headers: Mapping[str, Any]) -> bool:
    """Whether these are of the next state of a message, and not of what somebody publishes."""
    return any(name.startswith(HEADER_PREFIX) and name not in _OF_NEW_ONES for name in headers)


def sent(headers: Mapping[str, Any], told: int) -> dict[str, int]:
    """What a copy must have to tell when the message was sent, where ``told`` is what its transport says."""
    found = meta_int(headers, SENT_AT) or told
    return {SENT_AT: found} if found else {}


def was_handed_back(headers: Mapping[str, Any]) -> bool:
    """Whether it is the copy of a message that was handed back."""
    return HANDED_BACK in headers


def was_suspected(headers: Mapping[str, Any]) -> bool:
    """Whether what was handed back was suspected of having killed a process."""
    return headers.get(HANDED_BACK) == _SUSPECTED


def handed_back(headers: Mapping[str, Any], *, suspected: bool) -> dict[str, Any]:
    """The headers of such a copy: what was counted stays."""
    return {**without_due(headers), HANDED_BACK: _SUSPECTED if suspected else "1"}


def due_at(headers: Mapping[str, Any]) -> float:
    """When a delayed message is due (Unix time in seconds); 0 for one that does not say so: at once."""
    return meta_int(headers, DUE) / 1000


def with_due(headers: Mapping[str, Any], due: float) -> dict[str, Any]:
    """The headers of a message that is held back until then."""
    return {**headers, DUE: round(due * 1000)}


def without_due(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a message that is not held back any more."""
    return {name: value for name, value in headers.items() if name != DUE}
