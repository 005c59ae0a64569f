"""The author's API: reading options and deliveries without knowing anything else of the core."""

from __future__ import annotations

from typing import Any

import pytest

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    FIRST_FAILED_AT,
    NO_HEADERS,
    BrokerURL,
    ConfigurationError,
    Delivery,
    Message,
    MessageTooLargeError,
    PayloadError,
    UnknownOptionError,
    check_content,
    option_count,
    option_seconds,
    read_options,
)
from qbridge_core.logs import flush

READERS = {"lease": option_seconds, "most": option_count}


def test_options_of_a_url_and_of_keywords_are_read_alike() -> None:
    """A URL's text means what the same number by keyword means, and the keyword wins."""
    url = BrokerURL.parse("mine://host?lease=2.5&most=7")
    assert read_options(url, {}, READERS) == {"lease": 2.5, "most": 7}
    assert read_options(url, {"lease": 4}, READERS) == {"lease": 4.0, "most": 7}


@pytest.mark.parametrize("given", [{"lease": "soon"}, {"lease": 0}, {"most": "1.5"}, {"most": True}])
def test_an_option_that_makes_no_sense_is_refused(given: dict[str, object]) -> None:
    """What a reader refuses is a ConfigurationError that names the option."""
    with pytest.raises(ConfigurationError, match=rf"option {next(iter(given))} must be"):
        read_options(BrokerURL.parse("mine://host"), given, READERS)


def test_an_unknown_option_is_named_with_those_that_are_known_and_a_hint() -> None:
    """Who uses another library's name for an option is told what to write."""
    with pytest.raises(UnknownOptionError, match="'ttl' for mine://; known options: lease, most; ttl: write lease"):
        read_options(BrokerURL.parse("mine://host?ttl=3"), {}, READERS, {"ttl": "write lease", "other": "write most"})


def test_a_delivery_is_read_from_its_headers() -> None:
    """Counts and times come from QBridge's headers, whatever type the broker gives them."""
    meta = {ATTEMPTS: b"2", CRASHES: "1", FIRST_FAILED_AT: 1_500}
    delivery = Delivery.from_headers(b"{}", "jobs", {"a": "b"}, meta, message_id="m", tag=9, redelivered=True)
    assert (delivery.attempts, delivery.crashes, delivery.first_failed_at) == (2, 1, 1.5)
    assert (delivery.queue, delivery.headers, delivery.message_id, delivery.tag) == ("jobs", {"a": "b"}, "m", 9)
    assert delivery.redelivered
    assert not delivery.suspected


def test_a_delivery_without_headers_has_not_failed() -> None:
    """Most messages carry nothing of QBridge's."""
    delivery = Delivery.from_headers(b"{}", "jobs", NO_HEADERS, NO_HEADERS, suspected=True)
    assert (delivery.attempts, delivery.crashes, delivery.first_failed_at) == (0, 0, None)
    assert delivery.suspected


def test_seconds_that_look_like_milliseconds_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is refused, for somebody may mean it; another limit can be given for what is usually long."""
    assert option_seconds("lease", "3600") == 3600
    assert option_seconds("limit", 7200, usual=7200) == 7200
    flush()
    assert not caplog.records
    assert option_seconds("lease", "30000") == 30000
    flush()
    assert "option lease is 30000 seconds, that is 8.3 hours: was it meant in ms?" in caplog.text


class Text(bytes):
    """A kind of bytes, as libraries have them."""


@pytest.mark.parametrize("body", [b"{}", Text(b"{}"), bytearray(b"{}"), memoryview(b"{}")])
def test_the_content_of_a_message_is_plain_bytes_whatever_kind_it_was(body: Any) -> None:
    """A backend gets bytes, headers and an id that each broker can carry."""
    checked, headers, message_id = check_content(Message(body, {"a": "b"}, "m"))
    assert (type(checked), checked, headers, message_id) == (bytes, b"{}", {"a": "b"}, "m")
    assert check_content(Message(body))[1:] == (NO_HEADERS, None)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message({"a": 1}), ConfigurationError),  # type: ignore[arg-type]
        (Message(b"xxx"), MessageTooLargeError),
        (Message(b"x", {"x-qbridge-attempts": "1"}), PayloadError),
        (Message(b"x", message_id=""), PayloadError),
    ],
)
def test_content_that_cannot_be_kept_is_refused(message: Message, error: type[Exception]) -> None:
    """No backend has to look at the parts of a message itself."""
    with pytest.raises(error):
        check_content(message, 2)
