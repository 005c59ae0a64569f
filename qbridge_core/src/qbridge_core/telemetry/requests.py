"""As much of HTTP/1.1 (RFC 9112) as a page without a form needs: one request, one response, and the end."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import unquote

LONGEST_REQUEST: Final = 16 * 1024
"""Bytes of a request line and its headers."""
_END: Final = b"\r\n\r\n"
_PARTS_OF_A_REQUEST_LINE: Final = 3


class Asked(NamedTuple):
    """What a request wants.

    Attributes:
        path: without a query, and with the characters that ``%`` stands for.
        head_only: the headers alone.
    """

    path: str
    head_only: bool


def is_complete(request: bytes | bytearray) -> bool:
    """Whether all has come that an answer needs, or more than anybody should send."""
    return _END in request or len(request) >= LONGEST_REQUEST


def asked_for(request: bytes) -> Asked | HTTPStatus:
    """What a complete request wants, or why it gets no page."""
    if _END not in request:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    parts = request.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != _PARTS_OF_A_REQUEST_LINE or not parts[2].startswith(b"HTTP/1."):
        return HTTPStatus.BAD_REQUEST
    if parts[0] not in (b"GET", b"HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED
    path = parts[1].partition(b"?")[0].decode("latin-1")
    return Asked(unquote(path), parts[0] == b"HEAD")


def response(status: HTTPStatus, content_type: str, body: bytes, *, head_only: bool = False) -> bytes:
    """The bytes of an answer, after which the connection ends."""
    allow = "Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{allow}Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)
