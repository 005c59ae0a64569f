"""A format of messages for tests, and handlers for what formats hand out."""

from __future__ import annotations

import json
import os
from typing import Any, ClassVar

from qbridge_core import (
    Delivery,
    Format,
    MalformedTaskError,
    Message,
    Outgoing,
    QueueClient,
    Task,
    UnsupportedTaskError,
)
from support.handlers import note

MARK = "list-format"


class ListFormat(Format):
    """A JSON list of the name, the positional and the keyword arguments; a header marks it, others tell its times."""

    name: ClassVar[str] = "list"

    def accepts(self, delivery: Delivery) -> bool:
        """Whether it has the mark."""
        return MARK in delivery.headers

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        try:
            name, args, kwargs = json.loads(delivery.body)
        except ValueError as exc:
            raise MalformedTaskError(f"it is no list of three: {exc}", delivery.message_id) from exc
        if "chain" in kwargs:
            raise UnsupportedTaskError("it has a chain, which is not run here", "chained")
        times = {key: float(delivery.headers[key]) for key in ("expires_at", "due_at") if key in delivery.headers}
        return Task(kwargs, delivery.headers.get("id"), {}, name, args, **times)

    def write(self, task: Outgoing) -> Message:
        """Write it."""
        body = json.dumps([task.name, [], task.payload]).encode()
        return Message(body, {**task.headers, MARK: "1", "id": task.task_id}, task.message_id)


def publish(
    client: QueueClient, queue: str, *args: Any, name: str = "any", kwargs: Any = None, **headers: object
) -> None:
    """Publish a message of this format, as another program does."""
    told = {key: str(value) for key, value in headers.items()}
    client.publish(queue, json.dumps([name, args, kwargs or {}]).encode(), headers={MARK: "1", **told})


def note_payload(payload: Any) -> None:
    """Note what it is, in the file that it names."""
    if isinstance(payload, bytes):
        note(payload.decode(), payload)
    elif "args" in payload:
        note(payload["args"][0], json.dumps(payload))
    else:
        note(payload["file"], json.dumps(payload))


def note_process(payload: Any) -> None:
    """Note where it runs, in the file that its first argument names."""
    note(payload["args"][0], os.getpid())


async def note_payload_later(payload: Any) -> None:
    """The same as a coroutine."""
    note_payload(payload)
