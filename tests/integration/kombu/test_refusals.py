"""What the kombu backend refuses, and how it says so."""

from __future__ import annotations

import errno
import sys
import threading
import traceback

import pytest
from botocore.exceptions import EndpointConnectionError
from kombu.transport import memory

from qbridge_core import (
    AuthenticationError,
    BrokerUnavailableError,
    BrokerURL,
    ConfigurationError,
    InvalidURLError,
    UnknownOptionError,
    UnknownSchemeError,
    backends,
    connect,
    logs,
)
from qbridge_kombu import KombuClient
from qbridge_kombu.transports import SCHEMES
from qbridge_kombu.transports.sqs import SQSTransport
from support.brokers import free_port

LOSSY = [
    "kombu+memory://", "kombu+filesystem:///tmp/jobs", "kombu+sqlalchemy:////tmp/jobs.db?dialect=sqlite",
    "kombu+redis://localhost", "kombu+any://?transport=kombu.transport.memory:Transport",
]  # fmt: skip


@pytest.mark.parametrize("url", LOSSY, ids=lambda url: url.partition(":")[0])
def test_a_transport_that_loses_what_a_dead_worker_held_is_refused(url: str) -> None:
    """Nobody is to use one by accident; whoever says that it is allowed gets one that claims no more than it can."""
    with pytest.raises(ConfigurationError, match="allow_loss=True"):
        KombuClient(url)
    capabilities = KombuClient(url, allow_loss=True).capabilities
    assert not capabilities.redelivers
    assert not capabilities.durable
    assert not capabilities.crashes


def test_a_region_is_never_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another region has other queues, and kombu would take one of its own."""
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    for host in ("", "sqs.eu-west-1.amazonaws.com"):
        with pytest.raises(ConfigurationError, match=r"\?region=eu-west-1, or set AWS_DEFAULT_REGION"):
            connect(f"kombu+sqs://key:secret@{host}")


def test_a_region_that_nobody_knows_is_doubted() -> None:
    """A service that cannot be reached may be one that does not exist."""
    for region, words in (("eu-wast-1", "is 'eu-wast-1' a region"), ("eu-west-1", None)):
        transport = SQSTransport(BrokerURL.parse("kombu+sqs://"), {"region": region})
        error = transport.translate(EndpointConnectionError(endpoint_url="https://x"), "connect")
        assert isinstance(error, BrokerUnavailableError)
        assert (words or "") in str(error)
        assert (words is not None) == ("a region of" in str(error))


def test_a_first_connection_that_fails_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody tries again until there was a connection, so no log says that."""
    with pytest.raises(BrokerUnavailableError):
        connect(f"kombu+amqp://localhost:{free_port()}")
    logs.flush()
    assert not caplog.records


def test_a_transport_that_keeps_messages_needs_no_permission() -> None:
    """AMQP redelivers, and says so."""
    capabilities = KombuClient("kombu+amqp://localhost").capabilities
    assert capabilities.redelivers
    assert capabilities.durable


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_list_of_backends_says_which_schemes_lose_messages(scheme: str) -> None:
    """Of each scheme what its client claims, without importing it."""
    urls = {url.partition("://")[0]: url for url in LOSSY}
    claims = KombuClient(urls.get(scheme, f"{scheme}://localhost"), allow_loss=True).capabilities
    served = backends()[scheme]
    assert served.startswith("qbridge-kombu")
    assert ("needs allow_loss" in served) == (not claims.redelivers)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_an_unknown_option_is_named_with_those_that_there_are(scheme: str) -> None:
    """Of each transport, its own among them."""
    with pytest.raises(UnknownOptionError, match=r"visibility.*known options: .*allow_loss.*request_timeout"):
        KombuClient(f"{scheme}://", visibility=30)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("kombu+filesystem://", "needs a folder"),
        ("kombu+filesystem://host/folder", "no host"),
        ("kombu+sqlalchemy:////tmp/jobs.db", "dialect"),
        ("kombu+any://host", "transport=package.module:Class"),
        ("kombu+any://host?transport=no-module", "transport=package.module:Class"),
        ("kombu+amqp://one,two", "one host"),
        ("kombu+sqs://key:secret@eu-west-1", r"\?region=eu-west-1"),
        ("kombu+sqs://key:secret@?region=eu%20west", "name of a region"),
        ("kombu+amqp://one?queue_type=odd", "queue_type must be one of classic, quorum"),
        ("kombu+amqp://one?login_method=odd", "login_method must be one of .*EXTERNAL.* PLAIN"),
    ],
)
def test_a_url_that_says_too_little_or_too_much_is_refused(url: str, words: str) -> None:
    """Before anything is connected."""
    with pytest.raises(ConfigurationError, match=words):
        KombuClient(url, allow_loss=True)


@pytest.mark.parametrize(
    ("kombus", "own"),
    [
        ("is_secure", "tls"), ("polling_interval", "wait_time"), ("visibility_timeout", "lease"),
        ("wait_time_seconds", "wait_time"),
    ],
)  # fmt: skip
def test_an_option_of_kombus_for_sqs_is_refused_with_what_to_say_instead(kombus: str, own: str) -> None:
    """Whoever comes from Celery has them in its transport options."""
    with pytest.raises(UnknownOptionError, match=f"; {kombus}: .*{own}"):
        KombuClient(f"kombu+sqs://key:secret@127.0.0.1?{kombus}=1")


def test_a_scheme_without_a_transport_is_refused() -> None:
    """The class used directly names the schemes that it has."""
    with pytest.raises(InvalidURLError, match=r"kombu\+amqp"):
        KombuClient("kombu+kafka://localhost")


def test_what_is_not_installed_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch, file_url: str) -> None:
    """SQLAlchemy does not come with kombu."""
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    monkeypatch.delitem(sys.modules, "kombu.transport.sqlalchemy", raising=False)
    monkeypatch.setattr("kombu.transport._transport_cache", {})
    with pytest.raises(ConfigurationError, match=r"pip install 'kombu\[sqlalchemy\]'"):
        KombuClient(file_url).connect()


@pytest.mark.parametrize("slashes", ["///", "////"])
def test_a_file_that_sqlite_cannot_open_is_named_with_what_a_path_looks_like(slashes: str) -> None:
    """Three slashes begin a path from the working directory."""
    with pytest.raises(BrokerUnavailableError, match=r"no/such/folder/jobs.db.*folder must exist.*four slashes"):
        connect(f"kombu+sqlalchemy:{slashes}no/such/folder/jobs.db?dialect=sqlite", allow_loss=True)


def test_an_unknown_dialect_is_named() -> None:
    """No waiting makes SQLAlchemy know it, so that this is no outage."""
    client = KombuClient("kombu+sqlalchemy://user:secret@host/db?dialect=oracul&allow_loss=true")
    with pytest.raises(ConfigurationError, match="does not know 'oracul'"):
        client.connect()


@pytest.mark.parametrize("transport", ["no_such_module_here:Transport", "kombu.transport.memory:NoSuchClass"])
def test_a_transport_that_cannot_be_imported_is_named(transport: str) -> None:
    """The class of ``kombu+any://`` is found when the client connects."""
    client = KombuClient(f"kombu+any://?transport={transport}", allow_loss=True)
    with pytest.raises(ConfigurationError, match=transport.partition(":")[0]):
        client.connect()


@pytest.mark.parametrize("transport", ["kombu.transport.base:Transport", "json:JSONDecoder", "json:loads"])
def test_a_class_that_is_no_virtual_transport_is_no_outage(transport: str) -> None:
    """No waiting makes it one."""
    client = KombuClient(f"kombu+any://?transport={transport}", allow_loss=True)
    with pytest.raises(ConfigurationError, match=f"{transport} is no class on kombu.transport.virtual"):
        client.connect()


class Keeping(memory.Transport):
    """Somebody's transport whose broker keeps messages."""

    class Channel(memory.Channel):  # noqa: D106
        def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: D102
            super().basic_ack(delivery_tag, multiple)


def test_a_transport_that_keeps_messages_is_not_taken_for_one_that_gives_them_away() -> None:
    """What is never acknowledged would come again and again."""
    url = f"kombu+any://?transport={__name__}:Keeping"
    with pytest.raises(ConfigurationError, match="acknowledges messages in a way of its own"):
        KombuClient(url, allow_loss=True).connect()


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("pyamqp", r"use amqp:// or kombu\+amqp://"), ("SQS", r"use kombu\+sqs://"), ("azureservicebus", "Not served"),
        ("gcpubsub", "Not served"), ("pgmq", "Not served"), ("confluentkafka", "Not served"),
    ],
)  # fmt: skip
def test_transports_of_kombu_that_keep_messages_are_refused_with_what_to_do(module: str, words: str) -> None:
    """Installed or not, and before anything is connected."""
    with pytest.raises(ConfigurationError, match=words):
        KombuClient(f"kombu+any://?transport=kombu.transport.{module}:Transport", allow_loss=True)


@pytest.mark.parametrize("scheme", ["kombu+azureservicebus", "kombu+mongodb"])
def test_a_transport_without_a_scheme_is_refused_with_where_to_look(scheme: str) -> None:
    """Most of kombu's transports have none of their own."""
    with pytest.raises(UnknownSchemeError, match=r"kombu\+any://.*transport=package.module:Class.*docs/kombu.md"):
        connect(f"{scheme}://host")


def test_wrong_credentials_are_no_outage(amqp_url: str) -> None:
    """They are an error of their own, and the password is in none of its parts."""
    address, password = amqp_url.partition("@")[2], "-".join(["s3cret", "word"])
    with pytest.raises(AuthenticationError) as caught:
        connect(f"kombu+amqp://guest:{password}@{address}")
    assert password not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("scheme", ["kombu+amqp", "kombu+redis"])
def test_a_broker_that_is_away_is_an_error_with_its_cause_and_without_the_password(scheme: str) -> None:
    """The driver's exception is the cause; whatever has the password in it does not cross."""
    password, options = "-".join(["s3cret", "word"]), {} if "amqp" in scheme else {"allow_loss": True}
    with pytest.raises(BrokerUnavailableError) as caught:
        connect(f"{scheme}://user:{password}@localhost:{free_port()}", **options)
    assert password not in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread"), MemoryError()],
    ids=lambda error: type(error).__name__,
)
def test_what_the_system_cannot_give_now_may_be_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, folder_url: str, error: Exception
) -> None:
    """Without a descriptor, a thread or memory left the broker cannot be reached now, which is no permanent error."""

    def refuse(thread: threading.Thread) -> None:
        raise error

    client = KombuClient(folder_url)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BrokerUnavailableError) as caught:
            client.connect()
    assert caught.value.__cause__ is error
    client.connect()
    client.declare("jobs")
    client.disconnect()
