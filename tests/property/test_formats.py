"""Whatever stands between the marks of a format, it is read as a task or refused as none: nothing else is raised."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import datetime
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from qbridge_core import (
    CeleryFormat,
    CloudEventsFormat,
    Delivery,
    DramatiqFormat,
    EnvelopeFormat,
    JSONFormat,
    RawFormat,
    RetryPolicy,
)
from qbridge_core.contract.envelope import Task, UnfitError
from qbridge_core.task.formats.chosen import formats_of
from qbridge_core.task.reading import TaskReader
from qbridge_core.task.terms import Terms
from support.properties import BODIES, JSON

FORMATS = [EnvelopeFormat(), CeleryFormat(), DramatiqFormat(), CloudEventsFormat(), JSONFormat(), RawFormat()]
READERS = [TaskReader(formats_of([each]), None, Terms(10.0, RetryPolicy()), 100_000) for each in FORMATS]

TIMES = st.datetimes() | st.datetimes().map(datetime.isoformat) | st.sampled_from(["null", "", "2030-01-01T00:00:00Z"])
NUMBERS = st.integers() | st.floats() | st.just(10**400)
VALUES = JSON | TIMES | NUMBERS | st.sampled_from(["9" * 5_000, "٣", "0", "-1"])
MARKED = st.fixed_dictionaries(
    {"__type__": st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "x"]) | JSON,
     "__value__": JSON}
)  # fmt: skip
CELERY_HEADERS = st.fixed_dictionaries(
    {"task": st.just("add") | VALUES, "id": st.just("a-1") | VALUES},
    optional={
        "eta": VALUES, "expires": VALUES, "retries": VALUES, "ignore_result": VALUES, "qbridge-task-version": VALUES,
        "compression": st.sampled_from(["application/x-gzip", "application/x-bz2", "application/x-lzma"]) | VALUES,
    },
)  # fmt: skip
CALL = {
    "args": st.lists(JSON | MARKED, max_size=2) | JSON,
    "kwargs": st.dictionaries(st.text(max_size=4), JSON | MARKED, max_size=2) | JSON,
}
EMBEDDED = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"), JSON)
CELERY_BODIES = st.tuples(*CALL.values(), st.fixed_dictionaries({}, optional=EMBEDDED) | JSON)
PROTOCOL_1 = st.fixed_dictionaries(
    {"task": st.just("add") | JSON, "id": st.just("a-1") | JSON, **CALL},
    optional={**EMBEDDED, "eta": JSON, "expires": JSON, "retries": JSON | NUMBERS, "utc": JSON},
)
DRAMATIQ = st.fixed_dictionaries(
    {"actor_name": st.just("add") | JSON, "message_id": st.just("m-1") | JSON, **CALL},
    optional={
        "options": JSON | st.dictionaries(
            st.sampled_from(["eta", "max_age", "retries", "pipe_target", "qbridge-task-version", "store_results"]),
            JSON | NUMBERS,
        ),
        "message_timestamp": JSON | NUMBERS,
    },
)  # fmt: skip
CONTENTS = (CELERY_BODIES | PROTOCOL_1 | DRAMATIQ | JSON).map(lambda each: json.dumps(each).encode()) | BODIES


@given(body=CONTENTS, headers=CELERY_HEADERS | st.dictionaries(st.text(max_size=8), VALUES, max_size=3))
@example(b'{"actor_name": "a", "message_id": "m", "args": [], "options": {"eta": 1e308}}', {})
@example(
    b'{"actor_name": "a", "message_id": "m", "args": [], "options": {"max_age": -1e308}, "message_timestamp": 1}', {}
)
def test_g13_a_message_is_a_task_or_unfit(body: bytes, headers: dict[str, Any]) -> None:
    """For each format, of messages that are meant for it or for another."""
    for each, reader in zip(FORMATS, READERS, strict=True):
        delivery = Delivery(body, "emails", headers)
        assert each.accepts(delivery) in {True, False}
        with suppress(UnfitError):
            check(reader.read(delivery)[0], delivery)


def check(task: Task, delivery: Delivery) -> None:
    """What a task says of itself is of the types that it should be."""
    assert task.task_id is None or (isinstance(task.task_id, str) and len(task.task_id) <= 255)
    assert task.name is None or isinstance(task.name, str)
    assert all(isinstance(each, float | int | None) for each in (task.due_at, task.expires_at))
    assert 0 <= delivery.attempts < 2**63
