"""Whatever another program writes into a stream ends as a run or as a dead letter with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from hypothesis import example, given
from hypothesis import strategies as st

from qbridge_core import QueueClient, connect
from support.properties import BODIES, HISTORIES, OURS, examples, work_off

QUEUE, DEAD = "qbridge-property", "qbridge-property.dead"
Pairs = list[tuple[bytes, bytes]]

NAMES = (
    st.sampled_from([b"body", b"message_id", b"x-qbridge-redelivered", b"x-qbridge-header-body", b"x-qbridge-header-"])
    | st.sampled_from(OURS).map(str.encode)
    | st.binary(max_size=20)
    | st.binary(max_size=5).map(lambda tail: b"x-qbridge-" + tail)
)
NUMBERS = st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number)
VALUES = (
    st.binary(max_size=40)
    | NUMBERS
    | st.sampled_from([b"failed", b"nan", b"1e9", b" 7 ", b"9" * 5_000, *(each.encode() for each in HISTORIES)])
)
FOREIGN = st.lists(st.tuples(NAMES, VALUES), max_size=6)
ENTRIES = st.tuples(FOREIGN, BODIES, st.integers(0, 6)).map(
    lambda parts: [*parts[0][: parts[2]], (b"body", parts[1]), *parts[0][parts[2] :]]
) | st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def server(redis_url: str, worker_id: str) -> Iterator[redis.Redis]:
    """A plain connection to the run's server."""
    with redis.Redis.from_url(redis_url) as server:
        yield server


@pytest.fixture(scope="module")
def client(redis_url: str, server: redis.Redis, worker_id: str) -> Iterator[QueueClient]:
    """A client whose keys no other process of this run uses."""
    with connect(redis_url, prefix=f"{worker_id}-") as client:
        client.declare(QUEUE, DEAD)
        yield client


@examples(40)
@given(st.lists(ENTRIES, min_size=1, max_size=10))
@example([[(b"x-qbridge-crashes", b"99"), (b"body", b'{"payload": 1}')], [(b"", b"")]])
@example([[(b"body", b'{"payload": 0}'), (b"x-qbridge-reason", b"\xff"), (b"x-qbridge-attempts", b"1" * 400)]])
@example([[(b"body", b"lost?"), (b"body", b'{"payload": 0}'), (b"\xff", b"\xfe"), (b"message_id", b"\xff")]])
def test_g13_whatever_is_in_a_stream_is_run_or_dead_lettered(
    client: QueueClient, server: redis.Redis, worker_id: str, entries: list[Pairs]
) -> None:
    """Any fields, twice, without a body, not UTF-8, ours with nonsense: nothing is lost or stops the worker."""
    for pairs in entries:
        server.execute_command("XADD", f"{worker_id}-{QUEUE}", "*", *(part for pair in pairs for part in pair))
    work_off(client, QUEUE, DEAD, [dict(pairs).get(b"body", b"") for pairs in entries])


@examples(30)
@given(FOREIGN)
def test_g13_foreign_fields_are_in_the_dead_letter_byte_for_byte(
    client: QueueClient, server: redis.Redis, worker_id: str, pairs: Pairs
) -> None:
    """The fields of a malformed entry are in its letter, in their order, except those that are QBridge's own."""
    client.purge(DEAD)
    fields = [part for pair in [*pairs, (b"body", b"no JSON")] for part in pair]
    server.execute_command("XADD", f"{worker_id}-{QUEUE}", "*", *fields)
    client.reject(client.receive(QUEUE, 1, 10.0)[0], requeue=False)
    # Through a script, because redis-py would make a dictionary of the fields.
    read = "return redis.call('XRANGE', KEYS[1], '-', '+')[1][2]"
    found = server.execute_command("EVAL", read, 1, f"{worker_id}-{DEAD}")
    kept = [part for pair in zip(fields[::2], fields[1::2], strict=True) if _is_foreign(pair[0]) for part in pair]
    assert found[: len(kept)] == kept


def _is_foreign(name: bytes) -> bool:
    return not name.startswith(b"x-qbridge-") or name.startswith(b"x-qbridge-header-")
