"""A program's logging cannot disturb the I/O thread, in which pika logs as well."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qbridge_core import TransientError, connect
from support.proxy import TCPProxy
from support.wait import wait_for


@pytest.fixture
def raised() -> Iterator[list[str]]:
    """The names of the loggers for which a broken LogRecord factory was called."""
    before, names = logging.getLogRecordFactory(), []

    def broken(name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        if name.startswith("pika"):
            names.append(name)
            raise KeyError(name)
        return before(name, *args, **kwargs)

    logging.setLogRecordFactory(broken)
    yield names
    logging.setLogRecordFactory(before)


def test_g20_a_record_factory_that_raises_is_not_called_in_the_midst_of_pika(
    amqp_url: str, unique_name: str, tcp_proxy: Callable[[str], TCPProxy], raised: list[str]
) -> None:
    """What pika says about a lost connection in our thread makes no record, and the client connects again."""
    proxy = tcp_proxy(amqp_url)
    with connect(proxy.through(amqp_url)) as client:
        client.declare(unique_name, f"{unique_name}.dead")
        proxy.reset()

        def works() -> bool:
            try:
                client.send(unique_name, 1)
                return client.purge(unique_name) >= 1  # on the other connection
            except TransientError:
                return False

        wait_for(works, 20, "it has connected again")
    assert raised == []
