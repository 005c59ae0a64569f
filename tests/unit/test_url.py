"""Broker URLs: their parts, and that a password never shows."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from qbridge_core import (
    BrokerURL,
    ConfigurationError,
    InvalidURLError,
    UnknownOptionError,
    connect,
    merge_options,
)

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("amqp://localhost", ("amqp", "localhost", None, None, None, None)),
        ("AMQP://u:p@Host:5672/vhost", ("amqp", "host", 5672, "u", "p", "vhost")),
        ("redis://localhost:6379/0", ("redis", "localhost", 6379, None, None, "0")),
        ("redis://:p@h", ("redis", "h", None, "", "p", None)),
        ("amqp://h/", ("amqp", "h", None, None, None, "")),
        ("amqp://h/%2F", ("amqp", "h", None, None, None, "/")),
        ("amqp://h/a%2Fb", ("amqp", "h", None, None, None, "a/b")),
        ("amqp://us%40er:p%3A%2F%23%3F%40@h", ("amqp", "h", None, "us@er", "p:/#?@", None)),
        ("amqp://[::1]:5672/v", ("amqp", "::1", 5672, None, None, "v")),
        ("memory://", ("memory", "", None, None, None, None)),
        ("my-broker+tls://h", ("my-broker+tls", "h", None, None, None, None)),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[object, ...]) -> None:
    """Scheme and host in lower case, the rest percent-decoded; absent and empty parts differ."""
    parsed = BrokerURL.parse(url)
    assert (parsed.scheme, parsed.host, parsed.port, parsed.username, parsed.password, parsed.path) == parts


def test_the_query_is_decoded() -> None:
    """Options in the query are decoded, and may be empty."""
    assert BrokerURL.parse("redis://h?a=1&b=x%20y&c=").query == {"a": "1", "b": "x y", "c": ""}


@pytest.mark.parametrize(
    ("url", "hosts", "text"),
    [
        ("x://h", (("h", None),), "x://h"),
        ("x://", (("", None),), "x://"),
        ("x://h1:1,h2,[::1]:3/s/0?a=1", (("h1", 1), ("h2", None), ("::1", 3)), "x://h1:1,h2,[::1]:3/s/0"),
        ("x://u:p@H1:1,h2:2", (("h1", 1), ("h2", 2)), "x://u:***@h1:1,h2:2"),
        ("x://u:p%2C%40@[::1],[::2]", (("::1", None), ("::2", None)), "x://u:***@[::1],[::2]"),
    ],
)
def test_a_url_may_name_several_hosts(url: str, hosts: tuple[tuple[str, int | None], ...], text: str) -> None:
    """Each with a port of its own or none; the first one is ``host`` and ``port``."""
    parsed = BrokerURL.parse(url)
    assert parsed.hosts == hosts
    assert (parsed.host, parsed.port) == hosts[0]
    assert str(parsed) == text


@pytest.mark.parametrize("hosts", ["h1,,h2", "h1,", ",h2:1", "h1:1,h2:port", "h1:1,h2:99999", "h1:0", "[::1,h2"])
def test_a_list_with_a_host_that_cannot_be_read_is_an_error(hosts: str) -> None:
    """One bad host spoils the URL, and the password is not shown."""
    with pytest.raises(InvalidURLError, match="check its host") as info:
        BrokerURL.parse(f"x://u:{SECRET}@{hosts}/")
    assert SECRET not in str(info.value)


@pytest.mark.parametrize("value", [None, 3, b"amqp://h", ["amqp://h"]])
def test_a_url_must_be_a_string(value: object) -> None:
    """Anything but a string is named by its type."""
    with pytest.raises(InvalidURLError, match=type(value).__name__):
        BrokerURL.parse(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["", "localhost", "localhost:5672", "://h", f"u:{SECRET}@localhost", f":{SECRET}@h"])
def test_a_url_without_a_scheme_is_explained(url: str) -> None:
    """The message shows what a URL looks like, and not what was given: it may be a password."""
    with pytest.raises(InvalidURLError, match="redis://localhost:6379/0") as info:
        BrokerURL.parse(url)
    assert SECRET not in str(info.value)


@pytest.mark.parametrize(
    ("url", "why"),
    [("", "is empty"), (" ", "is empty"), (f" amqp://u:{SECRET}@h", "a space"), (f"'amqp://u:{SECRET}@h'", "a quote")],
)
def test_a_url_from_a_setting_gone_wrong_is_explained(url: str, why: str) -> None:
    """A variable that is not set, or was set with its quotes; nothing of it is shown."""
    with pytest.raises(InvalidURLError, match=f"this one .*{why}") as info:
        BrokerURL.parse(url)
    assert SECRET not in str(info.value)


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://u:{SECRET}@h:port/v",
        f"amqp://u:{SECRET}@h:99999/v",
        f"amqp://u:{SECRET}@[::1/v",
        f"amqp://u:{SECRET}/x@h/v",
        f"amqp://u:{SECRET}?x@h/v",
        f"amqp://u:{SECRET}#x@h/v",
        f"amqp://u:x#{SECRET}@h/v",
        f"amqp://u:1#{SECRET}@h/v",
        f"amqp://u:1?{SECRET}@h/v",
        f"amqp://u:{SECRET}\u2100@h/v",
        f"amqp://u:{SECRET}@h/v?password={SECRET}&password={SECRET}",
        f"amqp://u:{SECRET}@h/v?{SECRET}",
    ],
)
def test_an_unreadable_url_never_shows_its_password(url: str) -> None:
    """Neither the error nor its cause repeats what may be a password, however it was mistyped."""
    with pytest.raises(InvalidURLError) as info:
        BrokerURL.parse(url)
    text = "".join(traceback.format_exception_only(info.value)) + repr(info.value) + repr(info.value.__cause__)
    assert SECRET not in text
    assert info.value.__cause__ is None
    assert info.value.__suppress_context__ or info.value.__context__ is None


@pytest.mark.parametrize("show", [str, repr, "{}".format, "{!r}".format])
def test_a_readable_url_never_shows_its_password(show: object) -> None:
    """However a URL is printed, its password and the values in its query are not."""
    url = BrokerURL.parse(f"amqp://user:{SECRET}@host:5672/v?password={SECRET}")
    assert callable(show)
    text = show(url)
    assert SECRET not in text
    assert "user" in text
    assert "host" in text


def test_a_hidden_password_leaves_a_mark() -> None:
    """``str`` shows that there is a password, and is otherwise the URL."""
    assert str(BrokerURL.parse("amqp://u:p@h:5672/v")) == "amqp://u:***@h:5672/v"
    assert str(BrokerURL.parse("amqp://u@h")) == "amqp://u@h"
    assert str(BrokerURL.parse("amqp://[::1]:1")) == "amqp://[::1]:1"


def test_a_url_cannot_be_changed() -> None:
    """A parsed URL is frozen, and equal to its copy."""
    url = BrokerURL.parse("amqp://u:p@h:5672/v?a=1")
    with pytest.raises(AttributeError):
        url.password = "x"  # type: ignore[misc]
    assert copy.deepcopy(url) == url == pickle.loads(pickle.dumps(url))


def test_keyword_options_win_over_the_query() -> None:
    """An option given twice has the keyword's value."""
    url = BrokerURL.parse("redis://h?lease=1&retries=2")
    assert merge_options(url, {"lease": 5}, known=("lease", "retries")) == {"lease": 5, "retries": "2"}


@pytest.mark.parametrize(
    ("query", "options"), [("?leese=" + SECRET, {}), ("", {"leese": SECRET}), ("?lease=1", {"leese": SECRET})]
)
def test_an_unknown_option_is_named_with_the_known_ones(query: str, options: dict[str, object]) -> None:
    """The error names the option and those that exist, and no value."""
    url = BrokerURL.parse(f"redis://u:{SECRET}@h{query}")
    with pytest.raises(
        UnknownOptionError, match=r"unknown option 'leese' for redis://; known options: lease, port"
    ) as info:
        merge_options(url, options, known=("port", "lease"))
    assert SECRET not in str(info.value)


def test_several_unknown_options_are_named_at_once() -> None:
    """One look at the error is enough to correct all of them."""
    with pytest.raises(UnknownOptionError, match=r"unknown options 'a', 'b' for x://; known options: none"):
        merge_options(BrokerURL.parse("x://h?b=1"), {"a": 2}, known=())


def test_connect_hides_the_password_of_an_unknown_scheme() -> None:
    """The error about a missing backend does not show the URL's password."""
    with pytest.raises(Exception, match="nope://") as info:
        connect(f"nope://u:{SECRET}@h")
    assert SECRET not in repr(info.value)


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://u:{SECRET}/x@h/v", f"amqp://u:1/{SECRET}@h", f"redis://:{SECRET}#x@h", f"redis://:1#{SECRET}@h/0",
        f"amqp://u:{SECRET}?x@h/v", f"amqp://u:{SECRET}[x@h", f"amqp://u:{SECRET}]@h/v", f"amqp://u:p@{SECRET}/w@h",
        f"redis+sentinel://u:{SECRET}/x@h1:1,h2:2/name", f"amqps://us/er:{SECRET}@h",
    ],
)  # fmt: skip
def test_a_character_that_must_be_encoded_in_a_password_is_named(url: str) -> None:
    """The error says how to write it, and does not repeat the password."""
    with pytest.raises(InvalidURLError, match=r"%2F for '/', %23 for '#'.*quote\(password") as info:
        BrokerURL.parse(url)
    assert SECRET not in str(info.value)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"amqp://u:{SECRET}\udcff@h", "UTF-8 cannot express"), (f"amqp://u:{SECRET}%ff@h", "not UTF-8"),
        (f"redis://h/0?sentinel_password={SECRET}%ff", "not UTF-8"), ("redis://h/%ff", "not UTF-8"),
    ],
)  # fmt: skip
def test_g17_a_password_in_another_encoding_is_refused(url: str, text: str) -> None:
    """It would become another password in silence; no exception that holds it is left behind."""
    with pytest.raises(InvalidURLError, match=text) as info:
        BrokerURL.parse(url)
    assert SECRET not in "".join(traceback.format_exception(info.value))
    assert SECRET not in repr(info.value)


def test_g17_an_option_in_another_encoding_is_refused() -> None:
    """The error names the option and not its value, and comes before a driver sees it."""
    with pytest.raises(ConfigurationError, match="option sentinel_password has a character") as info:
        connect("redis+sentinel://h/name", sentinel_password=f"{SECRET}\udcff")
    assert SECRET not in str(info.value)
    assert info.value.__context__ is None
