"""How ``qbridge send`` reads its input, and how far it says that it came."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from qbridge_core import BrokerUnavailableError
from qbridge_core.cli.sending.lines import MOST, Line, read_lines
from qbridge_core.cli.sending.stream import NoTaskError, Stream
from qbridge_memory import MemoryClient


@pytest.fixture
def client() -> Iterator[MemoryClient]:
    """A client with the queue ``mails``."""
    client = MemoryClient()
    client.connect()
    client.declare("mails")
    yield client
    client.disconnect()


def piped(data: bytes, longest: int = 1000) -> list[list[Line]]:
    """The parts in which this is read from a pipe."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), open(writing, "wb") as file:
            file.write(data)

    threading.Thread(target=write, daemon=True).start()
    try:
        return list(read_lines(reading, longest))
    finally:
        os.close(reading)


def test_lines_are_counted_however_they_come() -> None:
    """Over many reads and parts, with and without an end of the last one; no part has more than its most."""
    for data in (b"\n".join(b"%d" % n for n in range(200_000)), b"".join(b"%d\n" % n for n in range(200_000))):
        parts = piped(data)
        assert [line for part in parts for line in part] == [Line(n + 1, b"%d" % n) for n in range(200_000)]
        assert max(map(len, parts)) <= MOST
    assert piped(b"") == []
    assert piped(b"\n") == [[Line(1, b"")]]


def test_a_line_without_end_is_not_read_to_its_end() -> None:
    """Of one that is too long only a part is kept."""
    (last,) = piped(b"x" * 3_000_000, 500_000)
    assert 500_000 < len(last[0].text) < 1_000_000


def test_a_failure_leaves_the_lines_before_it(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said to be confirmed is what was; the lines in hand are known, too."""
    stream = Stream(client, "mails", skip=1)
    stream.send_lines([Line(1, b"no JSON, and left out"), Line(2, b"2"), Line(3, b" ")])
    assert (stream.sent, stream.lines, stream.last) == (1, 3, 3)

    def away(*args: object, **kwargs: object) -> None:
        raise BrokerUnavailableError("away")

    monkeypatch.setattr(client, "publish_many", away)
    with pytest.raises(BrokerUnavailableError):
        stream.send_lines([Line(4, b"4"), Line(5, b"5")])
    assert (stream.sent, stream.lines, stream.last) == (1, 3, 5)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"NaN", b"[" * 100_000, b"1" * 5_000, b'"\\ud800"', b"1 2"])
def test_what_is_no_task_is_refused(client: MemoryClient, text: bytes) -> None:
    """With its number, after those before it were sent."""
    stream = Stream(client, "mails")
    with pytest.raises(NoTaskError):
        stream.send(text)
    if text:
        with pytest.raises(NoTaskError) as caught:
            stream.send_lines([Line(1, b"1"), Line(2, text), Line(3, b"3")])
        assert caught.value.line == 2
        assert (stream.lines, client.stats("mails").ready) == (1, 1)


def test_delayed_lines_fail_as_others_do(client: MemoryClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though they are sent at the same time: none of those in hand counts as confirmed."""
    publish, stream = client.publish, Stream(client, "mails", delay=60.0)
    stream.send_lines([Line(number, b"%d" % number) for number in range(1, 50)])
    assert (stream.lines, client.stats("mails").delayed) == (49, 49)

    def away(queue: str, body: bytes, **kwargs: object) -> None:
        if b"55" in body:
            raise BrokerUnavailableError("away")
        publish(queue, body, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "publish", away)
    with pytest.raises(BrokerUnavailableError):
        stream.send_lines([Line(number, b"%d" % number) for number in range(50, 90)])
    assert (stream.sent, stream.lines, stream.last) == (49, 49, 89)
