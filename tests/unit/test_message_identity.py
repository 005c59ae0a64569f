"""What a message of RabbitMQ is recognized by after the loss of its channel."""

from __future__ import annotations

import pytest

from qbridge_rabbitmq.state.identity import trace


@pytest.mark.parametrize("size", [0, 256, 257, 10_000, 256 * 1024, 256 * 1024 + 1, 2_000_000])
def test_messages_are_alike_when_all_of_their_bodies_is(size: int) -> None:
    """One other byte, anywhere, or one more makes another message; a copy of the same bytes does not."""
    properties = b"\0\0"
    body = bytes(size)
    alike = trace(properties, body)
    assert trace(properties, bytes(bytearray(body))) == alike
    assert trace(b"\0\1", body) != alike
    assert trace(properties, body + b"\0") != alike
    for place in {0, size // 2, size - 1} if size else ():
        assert trace(properties, body[:place] + b"\1" + body[place + 1 :]) != alike


@pytest.mark.parametrize("size", [257, 10_000, 2_000_000])
def test_what_is_kept_of_a_long_body_is_short(size: int) -> None:
    """Thousands of them are remembered."""
    assert len(trace(b"", bytes(size))[1]) < 64
