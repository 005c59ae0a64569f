"""Asks which permissions the user lacks: an error within a script does not name the command that was refused."""

from __future__ import annotations

from typing import Final, NamedTuple

from redis.exceptions import ResponseError

from qbridge_core.backend import QBridgeError
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import code
from qbridge_redis.protocol.scripts import PROBE_PERMISSIONS, Command
from qbridge_redis.queues.admin import ask
from qbridge_redis.state.context import NodeContext, log

_TIME: Final = 2.0
_KEYS: Final = "key"
_NOBODY: Final = "qbridge:probe"


class Lacking(NamedTuple):
    """A command that the user may not use; with a key, not on that."""

    command: str
    key: str = ""


def lacking_rights(context: NodeContext, connection: RedisConnection, queue: str, dead: str) -> list[Lacking]:
    """What a worker of a queue needs and may not do, tried out by commands that change nothing.

    Raises:
        BrokerUnavailableError: the server does not answer.
    """
    commands = [_probe(context, queue, dead), *_plain(context, queue)]
    lacking: list[Lacking] = []
    for command, reply in zip(commands, ask(context, connection, commands), strict=True):
        if isinstance(reply, list) and command is commands[0]:
            lacking += [_named(name) for name in reply]
        elif isinstance(reply, ResponseError) and code(reply) == "NOPERM":
            word = str(command[0]).lower()
            lacking.append(Lacking(word, context.keys.stream(queue).decode() if _KEYS in str(reply) else ""))
    return list(dict.fromkeys(lacking))


def missing_rights(context: NodeContext, connection: RedisConnection, queue: str) -> str:
    """What a worker of a queue needs and may not do, as a sentence; "" when nothing is missing or nobody can tell."""
    reply = connection.call(_probe(context, queue, context.declarations.dead_letter_queue(queue)), _TIME)
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


def _probe(context: NodeContext, queue: str, dead: str) -> Command:
    keys = context.keys
    away = dead if keys.together(queue, dead) else queue
    return PROBE_PERMISSIONS([keys.stream(queue), keys.delayed(queue), keys.stream(away)])


def _plain(context: NodeContext, queue: str) -> list[Command]:
    """What a client does outside of scripts. There is no such group, id or consumer."""
    stream, delayed = context.keys.stream(queue), context.keys.delayed(queue)
    commands: list[Command] = [
        ("XADD", stream, "NOMKSTREAM", "0-0", "body", ""),
        ("XREADGROUP", "GROUP", _NOBODY, _NOBODY, "COUNT", 1, "STREAMS", stream, ">"),
        ("XLEN", stream),
        ("XPENDING", stream, _NOBODY),
        ("XGROUP", "CREATE", stream, _NOBODY, "no id"),
        ("XINFO", "CONSUMERS", stream, _NOBODY),
        ("EXISTS", stream),
        ("ZCARD", delayed),
    ]
    if context.options.wait_replicas:
        commands.append(("WAIT", 0, 1))
    return commands


def _named(name: bytes) -> Lacking:
    command, _, key = name.decode("utf-8", "replace").partition(" on the key ")
    return Lacking(command, key)
