"""What is special about a database server, where several write at once: PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from integration.kombu.conftest import MakeClient
from support.wait import wait_for

_TABLES = """
CREATE SEQUENCE queue_id_sequence;
CREATE SEQUENCE message_id_sequence;
CREATE TABLE kombu_queue (id integer PRIMARY KEY, name varchar(200) UNIQUE);
CREATE TABLE kombu_message (
    id integer PRIMARY KEY, visible boolean, "timestamp" timestamp, payload text NOT NULL, version smallint NOT NULL,
    queue_id integer REFERENCES kombu_queue (id)
);
"""


@pytest.fixture
def empty_database(postgresql_url: str, unique_name: str) -> Iterator[str]:
    """The URL of a database without tables."""
    with psycopg.connect(postgresql_url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{unique_name}"')
        yield urlunsplit(urlsplit(postgresql_url)._replace(path=f"/{unique_name}"))
        server.execute(f'DROP DATABASE "{unique_name}" WITH (FORCE)')


def test_another_process_may_make_the_tables_in_the_same_moment(
    make_client: MakeClient, empty_database: str, queue: str
) -> None:
    """The client that comes second waits for the first one's transaction, and uses what that has made."""
    came: list[object] = []
    url = f"kombu+sqlalchemy{empty_database.removeprefix('postgresql')}?dialect=postgresql%2Bpsycopg&allow_loss=true"
    with psycopg.connect(empty_database) as first, psycopg.connect(empty_database, autocommit=True) as onlooker:
        first.execute(_TABLES)
        second = threading.Thread(target=lambda: came.append(make_client(url, connect_timeout=60.0)))
        second.start()
        waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_for(lambda: onlooker.execute(waits).fetchone(), 30.0, "the second one waits")
        first.commit()
        second.join()
    client = make_client(url)
    assert len(came) == 1
    client.declare(queue)
    client.send(queue, 1)
    assert client.stats(queue).ready == 1
