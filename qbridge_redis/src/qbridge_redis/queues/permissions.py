"""Asks which permissions the user lacks: an error within a script does not name the command that was refused."""

from __future__ import annotations

from typing import Final

from qbridge_core.backend import QBridgeError
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.protocol.scripts import PROBE_PERMISSIONS
from qbridge_redis.state.context import NodeContext, log

_TIME: Final = 2.0


def missing_rights(context: NodeContext, connection: RedisConnection, queue: str) -> str:
    """What a worker of a queue needs and may not do, as a sentence; "" when nothing is missing or nobody can tell."""
    keys, away = context.keys, context.declarations.dead_letter_queue(queue)
    if not keys.together(queue, away):
        away = queue
    command = PROBE_PERMISSIONS([keys.stream(queue), keys.delayed(queue), keys.stream(away)])
    reply = connection.call(command, _TIME)
    if not isinstance(reply, list) or not reply:
        return ""
    names = list(dict.fromkeys(name.decode("utf-8", "replace") for name in reply))
    user = context.options.username or "default"
    wanted = " ".join(f"+{name}" for name in dict.fromkeys(name.partition(" ")[0] for name in names))
    return f"the Redis user {user!r} may not use {', '.join(names)} (ACL SETUSER {user} {wanted})"


def warn_of_missing_rights(context: NodeContext, connection: RedisConnection, queue: str) -> None:
    """Say once what a worker that reads a queue will not be able to do."""
    lacking = missing_rights(context, connection, queue)
    if lacking and context.is_new_complaint(queue, lacking):
        log.warning("reading %s, though %s", queue, lacking)


def ask_missing_rights(context: NodeContext, queue: str) -> str:
    """The same on a connection of its own."""
    try:
        with context.pool.connection(_TIME) as connection:
            return missing_rights(context, connection, queue)
    except (QBridgeError, *LOST):
        return ""
