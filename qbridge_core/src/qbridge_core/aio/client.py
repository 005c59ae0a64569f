"""``AsyncQueueClient``: the producing side of a client for coroutines."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from qbridge_core.aio.sends import MAX_IN_FLIGHT, Sends
from qbridge_core.contract.capabilities import Capabilities
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.encoding import Encoder
from qbridge_core.contract.message import Message, QueueStats
from qbridge_core.contract.producing import task_message
from qbridge_core.contract.registry import connect
from qbridge_core.errors import ConfigurationError, PayloadError


class AsyncQueueClient:
    """Sends from coroutines what a :class:`~qbridge_core.QueueClient` sends, by the same names. Thread-safe.

    One may be used by any number of event loops. No call blocks a loop, whatever the broker does. Messages that are
    under way at the same time share their way to the broker and back: many ``send`` at once are many times as quick as
    one after the other.

    **Cancelled,** as by ``asyncio.timeout``, a call goes on, for nobody can take a message back: it may be confirmed
    after that. When it fails then, the log says so.

    Receiving is for workers: see :class:`~qbridge_core.TaskManager`. What is not here is had with
    ``await asyncio.to_thread(client.queue_client.purge, "emails")``.

    Args:
        client: a connected client, as in a handler that shares that of its worker; :func:`aconnect` makes one.
        max_in_flight: so many messages may be under way in each event loop. A ``send`` beyond them waits for room, for
            its ``publish_timeout`` at most, or without one for the ``patience`` of the client.

    Raises:
        ConfigurationError: ``client`` is no client, or ``max_in_flight`` is no whole number of at least 1.

    Attributes:
        queue_client: the client.
    """

    def __init__(self, client: QueueClient, *, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        if not isinstance(client, QueueClient):
            raise ConfigurationError(
                f"AsyncQueueClient takes a connected client, not a {type(client).__name__}; with a URL write "
                "async with aconnect(url) as client"
            )
        self.queue_client = client
        self._sends = Sends(max_in_flight)

    def __repr__(self) -> str:
        return f"<AsyncQueueClient of {self.queue_client!r}>"

    @property
    def connected(self) -> bool:
        """True until ``disconnect``, also while a lost connection is being rebuilt."""
        return self.queue_client.connected

    @property
    def capabilities(self) -> Capabilities:
        """What the client can do."""
        return self.queue_client.capabilities

    async def disconnect(self) -> None:
        """Wait for the messages that are under way, each of which has a deadline, and disconnect the client."""
        await self._sends.drain()
        await self._sends.call(self.queue_client.disconnect, "disconnecting")

    # ------------------------------------------------------------------ sending

    async def send(
        self,
        queue: str,
        payload: object,
        *,
        task_id: str | None = None,
        delay: float = 0.0,
        headers: Mapping[str, str] | None = None,
        expires: float | datetime | None = None,
        encoder: Encoder | None = None,
        publish_timeout: float | None = None,
    ) -> str:
        """Publish a task as ``QueueClient.send`` does; it is confirmed on return. Return its task id.

        Raises:
            The errors of ``QueueClient.send``.
        """
        clock = self.queue_client.clock
        message, task_id = task_message(
            payload, clock, task_id=task_id, delay=delay, headers=headers, expires=expires, encoder=encoder
        )
        await self._sends.publish(self.queue_client, queue, message, delay, publish_timeout)
        return task_id

    async def send_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        expires: float | datetime | None = None,
        encoder: Encoder | None = None,
        publish_timeout: float | None = None,
    ) -> list[str]:
        """Publish one task for each payload, in order and in one pipeline. Return their task ids in order.

        Raises:
            The errors of ``QueueClient.send_many``.
        """
        send, given = self.queue_client.send_many, _all(payloads, "send_many")
        sending = partial(send, queue, given, expires=expires, encoder=encoder, publish_timeout=publish_timeout)
        return await self._sends.call(sending, f"messages for {queue!r}")

    async def publish(
        self,
        queue: str,
        body: bytes,
        *,
        headers: Mapping[str, str] | None = None,
        message_id: str | None = None,
        delay: float = 0.0,
        timeout: float | None = None,  # noqa: ASYNC109 - the broker's confirmation has it, and no cancelled call
    ) -> None:
        """Publish one message as ``QueueClient.publish`` does; it is confirmed on return.

        Raises:
            The errors of ``QueueClient.publish``.
        """
        message = Message(body, headers or {}, message_id)
        await self._sends.publish(self.queue_client, queue, message, delay, timeout)

    async def publish_many(
        self,
        queue: str,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> None:
        """Publish messages in order and in one pipeline; all are confirmed on return.

        Raises:
            The errors of ``QueueClient.publish_many``.
        """
        publish = partial(self.queue_client.publish_many, queue, _all(messages, "publish_many"), timeout=timeout)
        await self._sends.call(publish, f"messages for {queue!r}")

    # ------------------------------------------------------------------ queues, and letters of those who send

    async def declare(self, queue: str, dead_letter_queue: str | None = None) -> None:
        """Create the queue (and its dead-letter queue) where missing.

        Raises:
            The errors of ``QueueClient.declare``.
        """
        await self._sends.call(partial(self.queue_client.declare, queue, dead_letter_queue), f"declaring {queue!r}")

    async def stats(self, queue: str) -> QueueStats:
        """Count the messages of a queue.

        Raises:
            The errors of ``QueueClient.stats``.
        """
        return await self._sends.call(partial(self.queue_client.stats, queue), f"counting {queue!r}")

    async def dead_letters(
        self, queue: str, limit: int = 100, *, after: DeadLetter | str | None = None
    ) -> list[DeadLetter]:
        """List a dead-letter queue, oldest first.

        Raises:
            The errors of ``QueueClient.dead_letters``.
        """
        look = partial(self.queue_client.dead_letters, queue, limit, after=after)
        return await self._sends.call(look, f"listing {queue!r}")

    async def replay(
        self,
        dead_letter_queue: str,
        *,
        target: str | None = None,
        limit: int | None = None,
        letters: Iterable[DeadLetter | str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> int:
        """Send dead letters back to the queue they came from; return how many went back.

        Raises:
            The errors of ``QueueClient.replay``.
        """
        replay = partial(
            self.queue_client.replay, dead_letter_queue, target=target, limit=limit, letters=letters, body=body,
            headers=headers,
        )  # fmt: skip
        return await self._sends.call(replay, f"replaying {dead_letter_queue!r}")


def with_sends(client: QueueClient, sends: Sends) -> AsyncQueueClient:
    """One that counts what is under way together with others."""
    made = AsyncQueueClient(client)
    made._sends = sends
    return made


class Connecting:
    """What :func:`aconnect` returns: a client for a block, or, awaited, one until ``await client.disconnect()``.

    Args:
        opening: connects; called by a thread.
        sends: what the client will have under way.
    """

    def __init__(self, opening: Callable[[], QueueClient], sends: Sends) -> None:
        self._opening = opening
        self._sends = sends
        self._client: AsyncQueueClient | None = None

    if not TYPE_CHECKING:  # for whoever forgets to await it; a checker knows that there is no such attribute

        def __getattr__(self, name: str) -> Any:
            hint = ": write `async with aconnect(…) as client`, or `client = await aconnect(…)`"
            raise AttributeError(f"what aconnect() returns has no {name!r} yet" + hint)

    def __await__(self) -> Generator[Any, None, AsyncQueueClient]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncQueueClient:
        self._client = await self._open()
        return self._client

    async def __aexit__(self, *exc_info: object) -> None:
        if self._client is not None:
            await self._client.disconnect()

    async def _open(self) -> AsyncQueueClient:
        sends = self._sends
        return with_sends(await sends.open(self._opening, lambda client: client.disconnect(), "connecting"), sends)


def aconnect(
    url: str,
    *,
    max_in_flight: int = MAX_IN_FLIGHT,
    start_timeout: float = 0.0,
    plugins: Sequence[object] = (),
    **options: object,
) -> Connecting:
    """Connect, as in ``async with aconnect(url) as client``.

    At the end of the block it waits for what is under way, and disconnects. A program without a block writes
    ``client = await aconnect(url)``, and ``await client.disconnect()`` in the end.

    Args:
        url: as for :func:`~qbridge_core.connect`.
        max_in_flight: see :class:`AsyncQueueClient`.
        start_timeout: seconds to keep trying while the broker is not up yet.
        plugins: as for ``connect``.
        options: the backend's options.

    Raises:
        The errors of ``connect``.
    """
    opening = partial(connect, url, start_timeout=start_timeout, plugins=plugins, **options)
    return Connecting(opening, Sends(max_in_flight))


def _all(items: Iterable[object], method: str) -> Any:
    """Go through what a caller gives here, and not in another thread; what cannot be gone through is refused there.

    Raises:
        PayloadError: only a coroutine can go through it.
    """
    if isinstance(items, AsyncIterable):
        raise PayloadError(
            f"{method} takes a list, not an {type(items).__name__}: write [each async for each in …], or send each one"
        )
    return items if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable) else list(items)
