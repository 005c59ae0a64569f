"""Letters that are imported into RabbitMQ: their headers have types, and must give no orders."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from qbridge_core import MessageTooLargeError, PayloadError, connect
from support.dead_letters import a_letter

TYPED = {
    "text": "ü",
    "bytes": b"\x00\xff",
    "truth": True,
    "number": -(2**62),
    "real": 0.25,
    "time": datetime(2026, 11, 30, 8, 0, tzinfo=UTC),
    "decimal": Decimal("-12.345"),
    "nothing": None,
    "list": [1, "two", [3.0], False],
    "table": {"inner": {"b": b"\xff"}, "n": None},
}


def test_headers_keep_their_types(amqp_url: str, unique_name: str) -> None:
    """Each value that AMQP 0-9-1 has comes back as what it was."""
    with connect(amqp_url) as client:
        client.declare(unique_name)
        client.import_letters(unique_name, [a_letter(unique_name, headers=TYPED)])
        (letter,) = client.dead_letters(unique_name)
        assert letter.headers == TYPED
        assert [type(value) for value in letter.headers.values()] == [type(value) for value in TYPED.values()]


def test_a_header_of_an_imported_letter_sends_it_nowhere_else(amqp_url: str, unique_name: str) -> None:
    """CC would have the broker deliver it to other queues, too."""
    other = f"{unique_name}-other"
    with connect(amqp_url) as client:
        client.declare(unique_name)
        client.declare(other)
        client.import_letters(unique_name, [a_letter(unique_name, headers={"CC": [other]})])
        assert (client.stats(unique_name).ready, client.stats(other).ready) == (1, 0)
        assert client.dead_letters(unique_name)[0].headers == {"CC": [other]}


def test_what_does_not_fit_is_refused(amqp_url: str, unique_name: str) -> None:
    """None of the letters is there when one cannot be kept whole."""
    with connect(amqp_url) as client:
        client.declare(unique_name)
        good = a_letter(unique_name)
        for headers in ({"n" * 256: "1"}, {"h": 2**70}, {"h": {1, 2}}, {"h": Decimal("1e9")}, {"BCC": [unique_name]}):
            with pytest.raises(PayloadError):
                client.import_letters(unique_name, [good, a_letter(unique_name, headers=headers)])
        with pytest.raises(PayloadError):
            client.import_letters(unique_name, [good, a_letter(unique_name, message_id="m" * 256)])
        with pytest.raises(MessageTooLargeError):
            client.import_letters(unique_name, [good, a_letter(unique_name, headers={"h": "x" * 200_000})])
        assert client.stats(unique_name).ready == 0
