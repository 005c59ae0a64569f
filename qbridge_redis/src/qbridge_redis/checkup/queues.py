"""What a queue is like, and whether somebody looks after it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import Check, Finding, QueueUse
from qbridge_redis.connection.errors import checked, code
from qbridge_redis.nodes import Nodes
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.queues.admin import ask
from qbridge_redis.queues.permissions import lacking_rights
from qbridge_redis.state.context import NodeContext

_LATE: Final = 10.0  # seconds; a client that looks after delays is late by one at most
_NO_KEY: Final = "no such key"


class QueueCheckup:
    """The checks of one queue.

    Args:
        nodes: the client's.
        use: how the queue is used.
    """

    def __init__(self, nodes: Nodes, use: QueueUse) -> None:
        self._nodes = nodes
        self._queue = use.queue
        self._dead = use.letters
        self._use = use

    def permissions(self, check: Check) -> Iterator[Finding]:
        """What the user may not do, tried out by commands that change nothing."""
        context = self._context(self._queue)
        user = context.options.username or "default"
        with context.pool.connection() as connection:
            lacking = lacking_rights(context, connection, self._queue, self._dead)
        if not lacking:
            yield check.ok(f"the user {user!r} may do all that a worker of the queue does")
            return
        said = ", ".join(f"{one.command}{f' on the key {one.key}' if one.key else ''}" for one in lacking)
        rules = [f"+{one.command}" for one in lacking if not one.key]
        rules += [f"~{shlex.quote(one.key)}" for one in lacking if one.key]
        granted = " ".join(dict.fromkeys(rules))
        yield check.problem(
            f"the user {user!r} may not use {said}: a worker cannot do its work", f"ACL SETUSER {user} {granted}"
        )

    def work_queue(self, check: Check) -> Iterator[Finding]:
        """Its stream and the consumer groups on it."""
        return self._stream(check, self._queue)

    def dead_letter_queue(self, check: Check) -> Iterator[Finding]:
        """The same for the dead letters."""
        return self._stream(check, self._dead)

    def delays(self, check: Check) -> Iterator[Finding]:
        """Whether what is due is delivered: clients that use the queue do that."""
        context = self._context(self._queue)
        key = context.keys.delayed(self._queue)
        (reply,) = self._ask(context, ("TIME",))
        seconds, micros = checked(reply, "ask for the time")
        due = int(seconds) * 1_000_000 + int(micros) - int(_LATE * 1_000_000)
        (late,) = self._ask(context, ("ZCOUNT", key, "-inf", due))
        if isinstance(late, ResponseError) and code(late) == "WRONGTYPE":
            yield check.problem(f"the key {_text(key)} is no sorted set: nothing can be delayed", _other_name(key))
        elif isinstance(late, ResponseError) and code(late) == "NOPERM":
            user = context.options.username or "default"
            yield check.not_checked(f"the user {user!r} may not count what is due", f"ACL SETUSER {user} +zcount")
        elif checked(late, "count what is due"):
            yield check.warning(
                f"{late:,} delayed messages have been due for more than {_LATE:g} s: no client looks after the queue",
                "start a worker of the queue",
            )
        else:
            yield check.ok("no delayed message is overdue")

    def _stream(self, check: Check, queue: str) -> Iterator[Finding]:
        context = self._context(queue)
        key, group = context.keys.stream(queue), context.options.group
        (groups,) = self._ask(context, ("XINFO", "GROUPS", key))
        if isinstance(groups, ResponseError) and _NO_KEY in str(groups):
            yield check.no_queue(queue, self._use)
            return
        if isinstance(groups, ResponseError) and code(groups) == "WRONGTYPE":
            yield check.problem(f"the key {_text(key)} holds something that is no stream", _other_name(key))
            return
        others = sorted({_name(row) for row in checked(groups, f"look at {queue!r}")} - {group})
        if others:
            yield check.warning(
                f"queue {queue!r} has other consumer groups, {', '.join(map(repr, others))}: each group gets every "
                f"message, so if workers read as one of them, tasks run twice (this client has {group!r})",
                "; ".join(f"XGROUP DESTROY {_text(key)} {shlex.quote(other)}" for other in others)
                + "; or give all programs the same option group",
            )
            return
        yield check.ok(f"queue {queue!r} is a stream with one consumer group")

    def _context(self, queue: str) -> NodeContext:
        return self._nodes.node(queue).context

    def _ask(self, context: NodeContext, *commands: Command) -> list[Any]:
        with context.pool.connection() as connection:
            return ask(context, connection, commands)


def _name(row: list[bytes]) -> str:
    return row[row.index(b"name") + 1].decode("utf-8", "replace")


def _text(key: bytes) -> str:
    return shlex.quote(key.decode("utf-8", "replace"))


def _other_name(key: bytes) -> str:
    return f"give the queue another name, or, if nobody needs it, DEL {_text(key)}"
