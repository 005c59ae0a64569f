"""``qbridge top`` in a terminal, on real brokers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from integration.cli.conftest import OpenTerminal
from qbridge_core import QueueClient, connect
from support.proxy import TCPProxy
from support.wait import wait_for


@pytest.fixture
def client(shared_url: str, unique_name: str) -> Iterator[QueueClient]:
    """A client of the broker that the command looks at, with the test's queue."""
    with connect(shared_url) as client:
        client.declare(unique_name)
        yield client


def row(screen: str, queue: str) -> list[str]:
    """The words of a queue's row."""
    (found,) = [line for line in screen.splitlines() if line.startswith(queue[:12])]
    return found.split()[1:]


def test_top_shows_a_queue_that_works(
    open_terminal: OpenTerminal, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """The counts change as they do, with lines for what comes and goes; q leaves the terminal as it was."""
    client.send_many(unique_name, range(5))
    terminal = open_terminal("top", unique_name, "--interval", "0.2", QBRIDGE_URL=shared_url)
    screen = terminal.wait_for("qbridge top", "in/s", "q quits", unique_name[:12], "127.0.0.1")
    assert row(screen, unique_name)[0] == "5"
    held = client.receive(unique_name, 2, 5.0)
    told = client.capabilities.details
    in_flight = str(len(held)) if "unsettled" in told else "?"
    wait_for(lambda: row(terminal.text, unique_name)[:2] == [str(5 - len(held)), in_flight], 20)
    if "in_rate" in told:
        wait_for(lambda: re.search("[▂▃▄▅▆▇█]", terminal.text) or not client.send_many(unique_name, [1]), 20)
    for delivery in held:
        client.ack(delivery)
    terminal.type("s")
    terminal.wait_for("(by ready)")
    assert not terminal.shows_cursor
    terminal.type("q")
    assert terminal.ended() == 0
    assert terminal.settings == terminal.before
    assert terminal.shows_cursor
    assert b"\x1b[?1049l" in terminal.written


def test_top_outlives_its_broker(
    open_terminal: OpenTerminal, client: QueueClient, shared_url: str, unique_name: str
) -> None:
    """While it is away the screen says so and shows what was known; Ctrl-C ends it with 0."""
    client.send(unique_name, 1)
    with TCPProxy.to(shared_url) as proxy:
        terminal = open_terminal("top", unique_name, "--interval", "0.2", QBRIDGE_URL=proxy.through(shared_url))
        terminal.wait_for(unique_name[:12])
        proxy.refuse()
        proxy.reset()
        proxy.refuse()
        screen = terminal.wait_for("the broker has not answered for", timeout=60)
        assert row(screen, unique_name)[0] == "1"
        proxy.pass_through()
        client.send(unique_name, 2)
        wait_for(lambda: row(terminal.text, unique_name)[0] == "2", 60)
        assert "has not answered" not in terminal.text
        terminal.type("\x03")
        assert terminal.ended() == 0
    assert terminal.settings == terminal.before
    assert "Traceback" not in terminal.text


def test_top_shows_as_much_as_there_is_room_for(open_terminal: OpenTerminal, redis_url: str, unique_name: str) -> None:
    """On a small terminal keys move through many queues; without colours it has none."""
    names = [f"{unique_name[:12]}-{number:02}" for number in range(20)]
    with connect(redis_url) as client:
        for name in names:
            client.declare(name)
    terminal = open_terminal("top", *names, size=(60, 12), QBRIDGE_URL=redis_url, NO_COLOR="1")
    screen = terminal.wait_for(names[0], "arrows move (1 to 7 of 20)")
    assert names[7] not in screen
    terminal.type("\x1b[B")
    terminal.wait_for(names[7], "(2 to 8 of 20)")
    terminal.type("\x1b[F")
    terminal.wait_for(names[19], "(14 to 20 of 20)")
    terminal.resize(120, 40)
    terminal.wait_for(names[0], names[19], "consumers")
    terminal.type("q")
    assert terminal.ended() == 0
    assert not re.search(rb"\x1b\[(\d+;)*(3|9|4|10)[0-7]m", terminal.written)
