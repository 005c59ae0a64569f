"""Stores that kombu makes queues of: what it leaves behind, hides or shows too early there, and QBridge does not."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from integration.kombu.conftest import MakeClient
from qbridge_core import Message
from qbridge_kombu.protocol.names import encoded


def rows(file: Path) -> list[tuple[int, int]]:
    """Each row with its visibility."""
    database = sqlite3.connect(file)
    try:
        return database.execute("select id, visible from kombu_message order by id").fetchall()
    finally:
        database.close()


def test_an_acknowledged_row_is_deleted(make_client: MakeClient, file_url: str, queue: str, tmp_path: Path) -> None:
    """kombu leaves each one in the table for ever."""
    client = make_client(file_url)
    client.declare(queue)
    client.publish_many(queue, [Message(b"%d" % number) for number in range(30)])
    for delivery in client.receive(queue, 30, 10.0):
        client.ack(delivery)
    assert client.flush()
    assert rows(tmp_path / "queues.db") == []


def test_what_is_in_flight_is_a_row_that_nobody_sees(
    make_client: MakeClient, file_url: str, queue: str, tmp_path: Path
) -> None:
    """So an operator can give back what a dead worker held; a hand-back makes the same row visible in its place."""
    client = make_client(file_url)
    client.declare(queue)
    client.publish_many(queue, [Message(b"1"), Message(b"2")])
    first = client.receive(queue, 1, 10.0)[0]
    file = tmp_path / "queues.db"
    before = rows(file)
    assert [visible for _, visible in before] == [0, 1]
    assert client.purge(queue) == 1, "kombu would delete what is in flight as well"
    client.reject(first, requeue=True)
    assert rows(file) == [(before[0][0], 1)]
    assert client.receive(queue, 1, 10.0)[0].redelivered


def test_two_consumers_of_a_file_never_get_the_same_row(make_client: MakeClient, file_url: str, queue: str) -> None:
    """A read that writes later locks the file first."""
    clients = [make_client(file_url) for _ in range(2)]
    clients[0].declare(queue)
    clients[0].publish_many(queue, [Message(b"%d" % number) for number in range(120)])
    bodies: list[bytes] = []

    def consume(number: int) -> None:
        while batch := clients[number].receive(queue, 5, 0.5):
            bodies.extend(delivery.body for delivery in batch)

    threads = [threading.Thread(target=consume, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(bodies) == sorted(b"%d" % number for number in range(120))


def test_a_file_is_seen_when_it_is_whole(make_client: MakeClient, folder_url: str, queue: str, tmp_path: Path) -> None:
    """kombu's own way opens it under its name first: a consumer that is quick would find it empty, and lose it."""
    sender, consumer = make_client(folder_url), make_client(folder_url)
    sender.declare(queue)
    large, count, received = b"x" * 200_000, 40, 0
    thread = threading.Thread(target=lambda: sender.publish_many(queue, [Message(large)] * count))
    thread.start()
    while received < count:
        batch = consumer.receive(queue, 5, 10.0)
        assert batch, f"only {received} of {count} messages came"
        assert {delivery.body for delivery in batch} == {large}
        received += len(batch)
    thread.join()
    assert os.listdir(tmp_path / "queues" / "messages") == []


def test_files_of_one_process_are_read_in_the_order_of_publishing(
    make_client: MakeClient, folder_url: str, queue: str
) -> None:
    """Many in one millisecond, which kombu would tell apart by chance."""
    client = make_client(folder_url)
    client.declare(queue)
    client.publish_many(queue, [Message(b"%d" % number) for number in range(100)])
    received = [delivery.body for delivery in client.receive(queue, 100, 10.0)]
    assert received == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("jobs.v2", "jobs.v2"),
        ("a/b", "a%2fb"),
        ("a%2fb", "a%252fb"),
        ("100%", "100%"),
        ("ü", "%c3%bc"),
        ("n" * 60, "n" * 23 + "%" + "1bd9fcb2ae7f1d0c"),
    ],
)
def test_a_name_that_a_broker_cannot_have_is_written_as_one_that_it_can(name: str, written: str) -> None:
    """Another one for each name, and plain ones stay as they are, for other programs to find."""
    found = encoded(name, allowed="A-Za-z0-9.%", escape="%", most=40)
    assert found[:24] == written[:24]
    assert len(found) <= 40
