"""Sends tasks, one or a stream of lines, and knows how far they are confirmed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from qbridge_core.cli.sending.lines import Line
from qbridge_core.contract.checks import check_expires
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.envelope import decode_json
from qbridge_core.contract.message import Message
from qbridge_core.errors import PayloadError

_AT_ONCE: Final = 16
"""Delayed messages have no pipeline of their own: so many threads wait for their confirmations."""
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


class NoTaskError(Exception):
    """A text that is no task.

    Attributes:
        line: which one, 0 for none.
    """

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(why)
        self.line = line


class Stream:
    """Tasks for one queue.

    Args:
        client: sends them.
        queue: where to.
        delay: seconds before they may be delivered.
        expires: seconds from when each is sent, within which it must begin.
        headers: those of all of them.
        task_id: of the only one; those of lines get their numbers behind it.
        name: which task of an app they are.
        skip: how many lines were sent before.

    Attributes:
        queue: where to.
        longest: bytes that a line may have.
        is_shared: whether other processes see the queue.
        skip: how many lines were sent before.
        sent: how many tasks are confirmed.
        lines: how many lines of the input are done with: all before it, and no more than that, are confirmed.
        last: the last line that was tried.
    """

    def __init__(
        self,
        client: QueueClient,
        queue: str,
        *,
        delay: float = 0.0,
        expires: float | None = None,
        headers: Mapping[str, str] | None = None,
        task_id: str | None = None,
        name: str | None = None,
        skip: int = 0,
    ) -> None:
        self._client = client
        self.queue = queue
        self.longest = client.max_message_bytes
        self.is_shared = client.capabilities.shared
        self._delay = delay
        self._expires = expires
        self._headers = headers
        self._task_id = task_id
        self._name = name
        self.skip = skip
        self.sent = 0
        self.lines = self.last = skip

    def send(self, text: bytes) -> str:
        """Send one task; return its id.

        Raises:
            NoTaskError: the text is none.
            QBridgeError: it is not confirmed.
        """
        message, task_id = self._task(text, self._task_id)
        self._client.publish(
            self.queue, message.body, headers=message.headers, message_id=message.message_id, delay=self._delay
        )
        self.sent = 1
        return task_id

    def send_lines(self, lines: Sequence[Line]) -> None:
        """Send a task for each line that is not empty; return once all are confirmed.

        Raises:
            NoTaskError: a line is none; those before it are confirmed.
            QBridgeError: one is not confirmed; others of these lines may be.
        """
        messages: list[Message] = []
        for line in lines:
            if line.number <= self.skip:
                continue
            text = line.text.removeprefix(_BYTE_ORDER_MARK) if line.number == 1 else line.text
            if text.isspace() or not text:
                continue
            try:
                messages.append(self._task(text, f"{self._task_id}-{line.number}" if self._task_id else None)[0])
            except NoTaskError as exc:
                self._publish(messages, line.number - 1)
                exc.line = line.number
                raise
        self._publish(messages, lines[-1].number)

    def _task(self, text: bytes, task_id: str | None) -> tuple[Message, str]:
        if len(text) > self.longest:
            raise NoTaskError(f"longer than the {self.longest:,} bytes that a message may have")
        try:
            payload = decode_json(text.decode())
        except UnicodeDecodeError as exc:
            raise NoTaskError("no UTF-8") from exc
        except json.JSONDecodeError as exc:
            raise NoTaskError(f"no JSON: {exc.msg} (column {exc.colno})") from exc
        except (ValueError, RecursionError) as exc:  # NaN; a number of thousands of digits; nested too deep
            raise NoTaskError(f"no JSON that can be read: {exc}") from exc
        expires = self._expires
        try:
            message, task_id = Message.for_task(
                payload,
                task_id=task_id,
                headers=self._headers,
                name=self._name,
                expires_at=None if expires is None else check_expires(expires, self._delay, self._client.clock),
            )
        except PayloadError as exc:
            raise NoTaskError(f"no task: {exc}") from exc
        if len(message.body) > self.longest:
            raise NoTaskError(f"a task of {len(message.body):,} bytes; a message may have {self.longest:,}")
        return message, task_id

    def _publish(self, messages: Sequence[Message], last: int) -> None:
        """Send what stands in the lines up to ``last``."""
        self.last = max(last, self.skip)
        if messages and self._delay:
            self._publish_delayed(messages)
        elif messages:
            self._client.publish_many(self.queue, messages)
        self.sent += len(messages)
        self.lines = self.last

    def _publish_delayed(self, messages: Sequence[Message]) -> None:
        def publish(message: Message) -> None:
            self._client.publish(
                self.queue, message.body, headers=message.headers, message_id=message.message_id, delay=self._delay
            )

        with ThreadPoolExecutor(_AT_ONCE, "qbridge-send") as threads:
            try:
                for _ in threads.map(publish, messages):
                    pass
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise
