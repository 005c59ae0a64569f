"""Mistakes in what users call first: errors at once that name the mistake, never a failure later."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from qbridge_core import (
    ConfigurationError,
    InvalidURLError,
    PayloadError,
    Supervisor,
    TaskManager,
    UnknownOptionError,
    UnknownSchemeError,
    connect,
)
from qbridge_memory import MemoryClient


def build() -> TaskManager:
    """A build function, which is never called here."""
    raise AssertionError


@pytest.mark.parametrize("url", [None, 5, "", b"memory://", "redis", "://x", ["memory://"], "amqp://h:99999"])
def test_g18_what_is_no_url_is_an_error_at_once(url: Any) -> None:
    """Nothing is connected, and the error says what a URL looks like or what is wrong with this one."""
    with pytest.raises(InvalidURLError, match="URL"):
        connect(url)


@pytest.mark.parametrize("scheme", ["memory", "redis", "rediss", "redis+sentinel", "redis+cluster", "amqp", "amqps"])
def test_g18_an_unknown_option_names_the_known_ones(scheme: str) -> None:
    """For each scheme, as a keyword and in the URL, before anything is connected."""
    where = "/name" if "sentinel" in scheme else ""
    with pytest.raises(UnknownOptionError, match="known options"):
        connect(f"{scheme}://localhost{where}", nosuch=1)
    with pytest.raises(UnknownOptionError, match="'nosuch'"):
        connect(f"{scheme}://localhost{where}?nosuch=1")


def test_g18_an_unknown_scheme_names_the_known_ones() -> None:
    """The list is of what is installed."""
    with pytest.raises(UnknownSchemeError, match=r"amqp.*memory.*redis"):
        connect("kafka://localhost")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("queue_client", "memory://"), ("handler", None), ("input_queue", None), ("input_queue", "d"),
        ("dead_letter_queue", 5), ("dead_letter_queue", "q.suspects"), ("max_retries", "3"), ("task_timeout", 0),
        ("max_workers", 2.5), ("backoff", 3), ("executor", "threads"),
        ("redact", "x"), ("plugins", 5), ("max_crashes", 1), ("grace_period", None),
        ("loop_factory", "x"), ("loop_factory", print), ("lifespan", "x"), ("lifespan", object),
    ],
)  # fmt: skip
def test_g18_a_wrong_argument_of_a_manager_is_named(client: MemoryClient, name: str, value: Any) -> None:
    """The error comes from the call that made the mistake."""
    arguments = {"queue_client": client, "handler": print, "input_queue": "q", "dead_letter_queue": "d", name: value}
    with pytest.raises(ConfigurationError, match=name):
        TaskManager(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((None, 1), "build"), (("no colon", 1), "module:function"), ((lambda: None, 1), "build function"),
        ((build, 0), "processes"), ((build, "2"), "processes"), ((build, True), "processes"),
    ],
)  # fmt: skip
def test_g18_a_wrong_argument_of_a_supervisor_is_named(arguments: Any, name: str) -> None:
    """Before a process is started."""
    with pytest.raises(ConfigurationError, match=name):
        Supervisor(*arguments)


SECONDS = {
    "redis://localhost:1": ("lease", "publish_timeout", "connect_timeout", "socket_timeout"),
    "amqp://localhost:1": (
        "connect_timeout", "publish_timeout", "request_timeout", "consumer_timeout", "reconnect_delay",
        "reconnect_delay_max", "heartbeat",
    ),
    "kombu+amqp://localhost:1": ("connect_timeout", "request_timeout", "publish_timeout", "poll_interval"),
    "kombu+sqs://key:secret@localhost:1": ("lease", "wait_time"),
}  # fmt: skip
"""Each option that takes seconds, by a URL of its backend; SQS has those of all of kombu's, too."""


@pytest.mark.parametrize(("url", "name"), [(url, name) for url, names in SECONDS.items() for name in names])
def test_g18_senseless_seconds_of_an_option_are_named(url: str, name: str) -> None:
    """In the URL and as a keyword, before anything is connected; no error of the system's or a driver's gets out."""
    for value in (0, -1, math.nan, math.inf, 1e300, 10**400, "1e300", "nan", "inf", "x", "", True, None, b"1", [1]):
        with pytest.raises(ConfigurationError, match=name):
            connect(url, **{name: value})
    for text in ("0", "-1", "nan", "inf", "1e300", "1" * 400, "x", "10s"):
        with pytest.raises(ConfigurationError, match=name):
            connect(f"{url}?{name}={text}")


@pytest.mark.parametrize("url", ["memory://", *SECONDS])
def test_g18_a_senseless_limit_of_bytes_is_named(url: str) -> None:
    """The limit is one option of all backends."""
    for value in (0, -1, 1.5, "1.5", "x", "", True, None, math.inf, "9" * 30):
        with pytest.raises(ConfigurationError, match="max_message_bytes"):
            connect(url, max_message_bytes=value)


@pytest.mark.parametrize("digits", ["9" * 10, "9" * 30, "9" * 5000])
@pytest.mark.parametrize("url", ["redis://localhost:1/{}", "unix:///x?db={}", "redis://localhost:1?wait_replicas={}"])
def test_g18_a_number_that_no_server_can_count_to_is_named(url: str, digits: str) -> None:
    """Python itself refuses to read very long ones, with an error of its own."""
    with pytest.raises(ConfigurationError, match=r"(db|wait_replicas|database) must be at most 2147483647"):
        connect(url.format(digits))


@pytest.mark.parametrize("payloads", [None, 3, 1.5, "text", b"bytes", {"a": 1}])
def test_g18_what_is_no_list_of_payloads_is_named(client: MemoryClient, payloads: Any) -> None:
    """One payload where a list of them belongs is an error that names the right call, and sends nothing."""
    with pytest.raises(ConfigurationError, match=r"use send\(\) for"):
        client.send_many("q", payloads)
    if not isinstance(payloads, Iterable):
        with pytest.raises(ConfigurationError, match=r"use publish\(\) for"):
            client.publish_many("q", payloads)
    assert client.stats("q").ready == 0


def test_g18_the_payload_that_is_no_json_is_named(client: MemoryClient) -> None:
    """By its position, since its task has no id that anybody knows; none of them is sent."""
    client.declare("q")
    with pytest.raises(PayloadError, match="payload 1 of send_many, of which nothing was sent"):
        client.send_many("q", ["good", object()])
    assert client.stats("q").ready == 0


def test_g18_the_order_of_send_is_no_advice_elsewhere(client: MemoryClient) -> None:
    """Who gave a manager no name of a queue does not call ``send``."""
    with pytest.raises(ConfigurationError, match=r"dead_letter_queue must be a string, not None$"):
        TaskManager(client, print, "q", None)  # type: ignore[arg-type]


def test_g18_a_coroutine_that_was_called_already_is_no_handler(client: MemoryClient) -> None:
    """The parentheses are the natural mistake, and the error says to leave them out."""

    async def mail(payload: object) -> None: ...

    with pytest.raises(ConfigurationError, match=r"mail was called already: leave out the parentheses"):
        TaskManager(client, mail(1), "q", "dead")  # type: ignore[arg-type]
