"""What a format of messages is, and what it writes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from qbridge_core.contract.envelope import Task
from qbridge_core.contract.headers import NO_HEADERS
from qbridge_core.contract.message import Delivery, Message


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A task that is to be written.

    Attributes:
        payload: what the handler gets: of an :class:`~qbridge_core.App` what JSON can say, keyed by the names of the
            parameters (but see ``whole_payload`` there).
        task_id: its id.
        message_id: that of the message, which no other one has.
        queue: where it goes.
        name: which task it is, where a queue has several kinds of them.
        version: of what the payload is made of.
        headers: the producer's own, strings.
        expires_at: what has not begun by then (Unix time in seconds) is not run.
    """

    payload: Any = field(repr=False)
    task_id: str
    message_id: str
    queue: str
    name: str | None = None
    version: int = 1
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)
    expires_at: float | None = None


class Format(ABC):
    """How a task stands in a message. Thread-safe; child processes must be able to unpickle it.

    Attributes:
        name: what errors call it.
        breadth: how much else than its own messages it accepts. Of the formats of a queue the narrow ones are asked
            first, those of one breadth in the order of the list: 0 for one that knows its messages by a mark.
    """

    name: ClassVar[str]
    breadth: ClassVar[int] = 0

    @abstractmethod
    def accepts(self, delivery: Delivery) -> bool:
        """Whether a message is of this format. A quick look, at the headers first. Never raises."""

    @abstractmethod
    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read a message that it accepts; in a worker's thread or in the event loop, so it must be quick.

        Args:
            delivery: the message. Anybody may have written it.
            max_bytes: a longer body is malformed.

        Raises:
            MalformedTaskError: it is no task.
            UnsupportedTaskError: it asks for what there is not here.
        """

    @abstractmethod
    def write(self, task: Outgoing) -> Message:
        """The message of a task.

        Raises:
            PayloadError: this format cannot say that.
        """

    def feeder_of(self, queue: str) -> str | None:
        """Another queue, in which messages for this one wait until they are due; ``None`` where there is none.

        The workers of an app take what is in it over into the queue itself.
        """
        del queue
        return None
