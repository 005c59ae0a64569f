"""QBridge's own format: a JSON object with the payload in it."""

from __future__ import annotations

from typing import ClassVar, Final

from qbridge_core.contract.envelope import Task, object_in, read_task, write_task
from qbridge_core.contract.message import Delivery, Message
from qbridge_core.task.formats.base import Format, Outgoing

_BEGIN: Final = b'{"payload":'
_KEY: Final = b'"payload"'


class EnvelopeFormat(Format):
    """The JSON envelope, in which tasks travel where nobody says otherwise: ``{"payload": …, "task_id": …}``."""

    name: ClassVar[str] = "envelope"

    def accepts(self, delivery: Delivery) -> bool:
        """Whether it is a JSON object with a payload."""
        body = delivery.body
        return body.startswith(_BEGIN) or (_KEY in body and "payload" in (object_in(body) or ()))

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read it."""
        return read_task(delivery.body, max_bytes)

    def write(self, task: Outgoing) -> Message:
        """Write it."""
        body = write_task(task.payload, task.task_id, task.name, task.version, task.expires_at)
        return Message(body, task.headers, task.message_id)
