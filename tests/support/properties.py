"""What the property tests share: how many examples, and bodies that nobody should send."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from qbridge_core import DeadLetter, QueueClient, QueueStats, TaskManager, current_task
from qbridge_core.backend import DUE_AT, HISTORY, REPLAYS, SENT_AT
from qbridge_core.contract.envelope import MalformedTaskError, read_task
from qbridge_core.message import (
    ATTEMPTS,
    CRASHES,
    EXCEPTION_MESSAGE,
    EXCEPTION_TYPE,
    FIRST_FAILED_AT,
    LAST_FAILED_AT,
    REASON,
    SOURCE_QUEUE,
    TASK_ID,
    TRACEBACK,
    WORKER,
)
from support.wait import wait_for

MORE: Final = max(1, int(os.environ.get("QBRIDGE_PROPERTY_EXAMPLES", "1")))
OURS: Final = [
    ATTEMPTS, CRASHES, FIRST_FAILED_AT, LAST_FAILED_AT, REASON, EXCEPTION_TYPE, EXCEPTION_MESSAGE, TRACEBACK,
    SOURCE_QUEUE, TASK_ID, WORKER, DUE_AT, HISTORY, REPLAYS, SENT_AT, "x-qbridge-unknown", "x-qbridge-",
]  # fmt: skip
HISTORIES: Final = [
    '[{"outcome": "failed", "began_at_ms": 1e400}]', '[{"outcome": "crashed"}, 7]', "[" * 5_000, '{"outcome": 1}',
    '[{"outcome": "snoozed", "place": "\\ud800", "replays": 99999999999999999999}]', "[" + " " * 9_000 + "]",
]  # fmt: skip
"""What somebody may have written in the place of a history."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ENVELOPES = st.fixed_dictionaries({"payload": JSON}, optional={"task_id": JSON, "retry": JSON, "x": JSON})
DOCUMENTS = (JSON | ENVELOPES).map(lambda document: json.dumps(document).encode())
BROKEN = st.tuples(DOCUMENTS, st.integers(0, 60), st.binary(max_size=3)).map(
    lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]
)
NASTY = st.sampled_from(
    [
        b"[" * 100_000,
        b'{"payload":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"payload": ' + b"9" * 5_000 + b"}",
        b'{"payload": 1e999}',
        b'{"payload": -0.0, "task_id": ' + b"9" * 300 + b"}",
        b'{"payload": 1, "payload": 2, "task_id": "a", "task_id": "b"}',
        b'{"payload": NaN}',
        b'{"payload": "\\ud800", "task_id": "\\ud800"}',
        b'{"payload": "\\u0000", "task_id": "\\u0000"}',
        b'\xef\xbb\xbf{"payload": 1}',
        '{"payload": 1}'.encode("utf-16"),
        b'{"payload": "' + b"x" * 300_000 + b'"}',
        b'{"payload": 1}\0',
        b"",
    ]
)
BODIES = st.binary(max_size=200) | DOCUMENTS | ENVELOPES.map(lambda each: json.dumps(each).encode()) | BROKEN | NASTY


def examples(count: int) -> settings:
    """Settings for a test whose examples need a broker."""
    return settings(max_examples=count * MORE, suppress_health_check=list(HealthCheck))


def is_malformed(body: bytes) -> bool:
    """Whether a body is no task."""
    try:
        read_task(body)
    except MalformedTaskError:
        return True
    return False


def work_off(client: QueueClient, queue: str, dead: str, bodies: Iterable[bytes]) -> list[DeadLetter]:
    """Run a worker on what was published; check that each message was run or is a dead letter, and return those.

    A payload that is false fails at each run.
    """
    runs: Counter[str] = Counter()

    def handler(payload: Any) -> None:
        runs[repr(payload)] += 1
        task = current_task()
        assert isinstance(task.history, tuple), (task.sent_at, task.due_at)  # whatever they are, they can be read
        if runs[repr(payload)] > 1_000:
            time.sleep(0.1)  # something is run again and again: let the log stay readable
        if not payload:
            raise ValueError(payload)

    client.send(queue, "the end")
    TaskManager(client, handler, queue, dead, max_retries=1, max_workers=2).run_until_idle(60.0)
    wait_for(lambda: client.stats(queue) == QueueStats(0, 0, 0), 10.0, "something is left in the queue")
    letters = client.dead_letters(dead, limit=1_000)
    client.purge(dead)
    assert runs[repr("the end")] == 1
    tasks = [body for body in bodies if not is_malformed(body)]
    failing = [body for body in tasks if not read_task(body).payload]
    malformed = [body for body in bodies if is_malformed(body)]
    assert Counter(letter.body for letter in letters) == Counter(failing + malformed)
    succeeded = Counter(repr(read_task(body).payload) for body in tasks if read_task(body).payload)
    assert {payload: runs[payload] for payload in succeeded} == succeeded
    return letters
