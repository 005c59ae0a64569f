"""All checks of a client, put together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from qbridge_core.backend import BrokerUnavailableError, Check, Finding, Look, QueueUse, examine
from qbridge_redis.checkup.queues import QueueCheckup
from qbridge_redis.checkup.server import ServerCheckup
from qbridge_redis.connection.connection import LOST, RedisConnection
from qbridge_redis.connection.errors import unreachable
from qbridge_redis.connection.options import Address, Options, address_text
from qbridge_redis.nodes import Nodes
from qbridge_redis.protocol.scripts import Command
from qbridge_redis.queues.admin import ask
from qbridge_redis.server.cluster import NodeRoute
from qbridge_redis.state.context import NodeContext


def look(nodes: Nodes, options: Options, uses: Sequence[QueueUse], timeout: float) -> list[Finding]:
    """Make all checks; see ``QueueClient.diagnose``."""
    try:
        servers = _servers(nodes, options)
    except BrokerUnavailableError as exc:  # no node of a cluster answers
        why = str(exc)
        return examine([(Check("server"), lambda check: [check.not_checked(why)])], timeout)
    looks = [each for server in servers for each in _of_a_server(server)]
    if nodes.single() is None:
        looks += [(Check("coverage"), server.coverage) for server in servers]
    for use in uses:
        looks += _of_a_queue(nodes, use)
    return examine(looks, timeout)


def _servers(nodes: Nodes, options: Options) -> list[ServerCheckup]:
    single = nodes.single()
    if single is not None:
        return [ServerCheckup(partial(_ask, single.context), options, str(options))]
    return [
        ServerCheckup(partial(_ask_node, options, address), options, address_text(address))
        for address in nodes.masters()
    ]


def _of_a_server(server: ServerCheckup) -> Iterator[tuple[Check, Look]]:
    yield Check("server"), server.server
    yield Check("memory"), server.memory
    yield Check("persistence"), server.persistence
    yield Check("replicas"), server.replicas
    yield Check("clock"), server.clock


def _of_a_queue(nodes: Nodes, use: QueueUse) -> Iterator[tuple[Check, Look]]:
    queue = QueueCheckup(nodes, use)
    yield Check("permissions", use.queue), queue.permissions
    yield Check("queue", use.queue), queue.work_queue
    yield Check("dead-letter queue", use.queue), queue.dead_letter_queue
    yield Check("delays", use.queue), queue.delays


def _ask(context: NodeContext, commands: Sequence[Command]) -> list[Any]:
    with context.pool.connection() as connection:
        return ask(context, connection, commands)


def _ask_node(options: Options, address: Address, commands: Sequence[Command]) -> list[Any]:
    connection = RedisConnection(NodeRoute(options, address), "qbridge:checkup")
    try:
        connection.open()
        return connection.call_many(commands)
    except LOST as exc:
        raise unreachable(exc, address_text(address)) from exc
    finally:
        connection.close()
