"""Dead letters for tests of those who take them in hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from qbridge_core import DeadLetter, QueueClient, Reason, connect

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/shop/mail.py", line 12, in send
    raise Refused(host)
shop.Refused: mx1 refuses
"""


def a_letter(queue: str, to: str = "ann", **values: Any) -> DeadLetter:
    """A letter of a task that failed."""
    letter = DeadLetter(
        body=json.dumps({"payload": {"to": to}, "task_id": f"mail-{to}"}).encode(),
        headers={"tenant": "blue"},
        reason=Reason.FAILED,
        exception_type="shop.Refused",
        exception_message="mx1 refuses",
        traceback=TRACEBACK,
        attempts=4,
        crashes=0,
        first_failed_at=1_700_000_000.0,
        last_failed_at=1_700_000_060.0,
        source_queue=queue,
        task_id=f"mail-{to}",
        worker="host:1",
        message_id=f"message-{to}",
    )
    return replace(letter, **values)


@contextmanager
def letters(url: str, queue: str, *given: DeadLetter) -> Iterator[tuple[QueueClient, list[str]]]:
    """A client, and the ids of letters in the dead-letter queue of a queue."""
    with connect(url) as client:
        client.declare(queue, f"{queue}.dead")
        client.import_letters(f"{queue}.dead", given)
        yield client, [letter.id for letter in client.dead_letters(f"{queue}.dead")]


def three(queue: str) -> list[DeadLetter]:
    """Letters of two kinds."""
    other = TRACEBACK.replace("line 12", "line 30")
    return [
        a_letter(queue, "ann"),
        a_letter(queue, "bob", traceback=other, last_failed_at=1_700_000_100.0, replays=1),
        a_letter(queue, "cid", crashes=1),
    ]
