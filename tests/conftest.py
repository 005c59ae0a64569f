"""Real brokers for the tests, one of each for the whole run.

The process that controls the run starts them, so that the workers of pytest-xdist share them; the workers
learn the URLs from the environment. RabbitMQ boots while pytest collects: only the fixture waits for it.

QBRIDGE_TEST_AMQP_URL, QBRIDGE_TEST_REDIS_URL and QBRIDGE_TEST_POSTGRESQL_URL name servers to use instead. With
QBRIDGE_REQUIRE_BROKERS=1 a missing broker is a failure and not a skip.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from qbridge_core.runtime.logs import flush, logger
from support.brokers import Broker, Kept, RabbitMQBroker, RedisBroker, amqp_answers, redis_answers, start_new
from support.postgresql import PostgreSQLBroker, postgresql_answers, postgresql_version
from support.proxy import TCPProxy
from support.shares import dealt
from support.sqs import SQSBroker
from support.sweeping import NAME, Sweeper, note_queues
from support.threads import NewThreads
from support.versions import amqp_version, redis_version
from support.wait import wait_for


@dataclass(frozen=True)
class Kind:
    """One kind of broker, and how the run finds it."""

    name: str
    broker: type[Broker]
    url_variable: str
    log_variable: str  # set only for a server that this run started
    answers: Callable[[str], bool]
    version: Callable[[str], str]


RABBITMQ = Kind(
    "RabbitMQ", RabbitMQBroker, "QBRIDGE_TEST_AMQP_URL", "QBRIDGE_TEST_AMQP_LOG", amqp_answers, amqp_version
)
REDIS = Kind("Redis", RedisBroker, "QBRIDGE_TEST_REDIS_URL", "QBRIDGE_TEST_REDIS_LOG", redis_answers, redis_version)
POSTGRESQL = Kind(
    "PostgreSQL", PostgreSQLBroker, "QBRIDGE_TEST_POSTGRESQL_URL", "QBRIDGE_TEST_POSTGRESQL_LOG",
    postgresql_answers, postgresql_version,
)  # fmt: skip
KINDS = (RABBITMQ, REDIS, POSTGRESQL)

_ONLY_SHOWING = (
    "collectonly",
    "help",
    "version",
    "markers",
    "showfixtures",
    "show_fixtures_per_test",
    "cacheshow",
)
_shared = pytest.StashKey[list[tuple[Kind, Broker]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start the shared brokers, without waiting for them."""
    # It is ignored in the background of a shell, and would be in the programs that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _have_caplog_wait_for_the_log()
    started = config.stash.setdefault(_shared, [])
    is_worker = hasattr(config, "workerinput")
    if is_worker or any(config.getoption(name, default=None) for name in _ONLY_SHOWING):
        return
    for kind in KINDS:
        if not os.environ.get(kind.url_variable) and kind.broker.available():
            broker = kind.broker(tempfile.mkdtemp(prefix=f"qbridge-{kind.name.lower()}-"))
            broker.spawn()
            started.append((kind, broker))
            os.environ[kind.url_variable] = broker.url
            os.environ[kind.log_variable] = str(broker.log_path)
            if isinstance(broker, RabbitMQBroker):
                config.pluginmanager.register(Sweeper(broker))


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Say which queues are not needed any more."""
    note_queues(item)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the processes of pytest-xdist begin with what takes long."""
    shares = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if shares > 1:
        items[:] = dealt(items, shares)


def _have_caplog_wait_for_the_log() -> None:
    """Whoever asks ``caplog`` for records gets what was logged until then; a thread of its own brings them there."""
    handler = pytest.LogCaptureFixture.handler.fget

    def after_flush(caplog: pytest.LogCaptureFixture) -> object:
        flush(5.0)
        return handler(caplog)

    pytest.LogCaptureFixture.handler = property(after_flush)
    quiet = logging.getLogger("qbridge.tests")
    quiet.propagate = False
    quiet.addHandler(logging.NullHandler())
    logger("qbridge.tests").error("starts the thread, which stays, before a test counts threads")


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the shared brokers and delete their files."""
    for kind, broker in config.stash.get(_shared, []):
        broker.close()
        os.environ.pop(kind.url_variable, None)
        os.environ.pop(kind.log_variable, None)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which brokers the run uses."""
    return [_describe(kind) for kind in KINDS]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say at the end which servers the run had, and in red which broker was missing."""
    urls = [(kind, url) for kind in KINDS if (url := os.environ.get(kind.url_variable))]
    if versions := [version for kind, url in urls if (version := kind.version(url))]:
        terminalreporter.write_line(f"servers: {', '.join(versions)}")
    if terminalreporter.stats.get("skipped") or terminalreporter.stats.get("error"):
        for kind in KINDS:
            if not os.environ.get(kind.url_variable):
                terminalreporter.write_line(_missing_line(kind), red=True, bold=True)


def _describe(kind: Kind) -> str:
    if os.environ.get(kind.log_variable):
        return f"{kind.name}: a private server for this run"
    if os.environ.get(kind.url_variable):
        return f"{kind.name}: the server of {kind.url_variable}"
    return f"{kind.name}: none"


def _missing_line(kind: Kind) -> str:
    return f"NO {kind.name.upper()}: not installed, and {kind.url_variable} is not set; its tests do not run"


def _give_up(kind: Kind) -> NoReturn:
    if os.environ.get("QBRIDGE_REQUIRE_BROKERS") == "1":
        pytest.fail(_missing_line(kind), pytrace=False)
    pytest.skip(_missing_line(kind))


def _shared_url(kind: Kind) -> str:
    url = os.environ.get(kind.url_variable)
    if not url:
        _give_up(kind)
    log = os.environ.get(kind.log_variable)
    if log is None and url.split(":", 1)[0].endswith("s"):
        return url  # TLS: only a real client can tell
    where = f"see {log}" if log else f"at the address in {kind.url_variable}"
    wait_for(lambda: kind.answers(url), 60 if log else 10, f"{kind.name} does not answer, {where}", interval=0.05)
    return url


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Lets threads go at the end that the test has had wait for it."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def new_threads() -> NewThreads:
    """The threads that begin with this test."""
    return NewThreads()


@pytest.fixture(scope="session")
def amqp_url() -> str:
    """The URL of the run's RabbitMQ; it is shared, so use unique queue names and break nothing."""
    return _shared_url(RABBITMQ)


@pytest.fixture(scope="session")
def redis_url() -> str:
    """The URL of the run's Redis; it is shared, so use unique queue names and break nothing."""
    return _shared_url(REDIS)


@pytest.fixture(scope="session")
def postgresql_url() -> str:
    """The URL of a database in the run's PostgreSQL, ``postgresql://…``; use unique queue names and break nothing."""
    return _shared_url(POSTGRESQL)


@pytest.fixture(scope="session")
def sqs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SQSBroker]:
    """A server for Amazon SQS, of this process; use unique queue names and break nothing.

    It is not shared by the workers of pytest-xdist: it boots in a second, and only where a test asks for it.
    """
    broker = start_new(SQSBroker, tmp_path_factory.mktemp("sqs"))
    yield broker
    broker.close()


@pytest.fixture
def private_sqs(tmp_path: Path) -> Iterator[SQSBroker]:
    """A server for Amazon SQS (`SQSBroker`) of this test alone, for tests that break it."""
    broker = start_new(SQSBroker, tmp_path / "sqs")
    yield broker
    broker.close()


def _private(kind: Kind, directory: Path) -> Iterator[Broker]:
    if not kind.broker.available():
        _give_up(kind)
    broker = kind.broker(directory / kind.name.lower())
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture(scope="session")
def _kept_rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    if not RABBITMQ.broker.available():
        _give_up(RABBITMQ)
    with closing(Kept(RABBITMQ.broker, tmp_path_factory.mktemp("kept"))) as kept:
        yield kept


@pytest.fixture
def private_rabbitmq(_kept_rabbitmq: Kept) -> RabbitMQBroker:
    """A RabbitMQ node that nobody else uses meanwhile, started and without queues, for tests that break it.

    The next test of this process of pytest gets the same one, for a node takes long to start: each test takes back
    what it has set.
    """
    node = _kept_rabbitmq.up()
    assert isinstance(node, RabbitMQBroker)
    node.delete_queues()
    return node


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[Broker]:
    """A Redis server (`RedisBroker`) of this test alone, started, for tests that break it."""
    yield from _private(REDIS, tmp_path)


@pytest.fixture
def tcp_proxy() -> Iterator[Callable[[str], TCPProxy]]:
    """Make proxies to the server of a URL: `proxy = tcp_proxy(url); connect(proxy.through(url))`."""
    proxies: list[TCPProxy] = []

    def make(url: str) -> TCPProxy:
        proxies.append(TCPProxy.to(url))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


@pytest.fixture
def unique_name() -> str:
    """A name for a queue that no other test and no other run uses."""
    return f"{NAME}{uuid.uuid4().hex[:12]}"


@pytest.fixture
def forgotten_records() -> Iterator[None]:
    """Have records about tasks made and dropped: pytest keeps them, with their exceptions and the frames of those."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logs = logging.getLogger("qbridge.worker")
    logs.addFilter(drop)
    yield
    logs.removeFilter(drop)
