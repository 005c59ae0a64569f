"""What the server must be like, looked at once when a client connects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import ConfigurationError
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.options import Deployment, Options
from qbridge_redis.connection.outage_log import log
from qbridge_redis.protocol.limits import Limits
from qbridge_redis.protocol.scripts import Command

OLDEST: Final = 7
Facts = dict[str, str]
QUESTIONS: Final[Sequence[Command]] = (
    *(("INFO", name) for name in ("server", "memory", "persistence", "replication")),
    (
        "CONFIG",
        "GET",
        "proto-max-bulk-len",
        "client-query-buffer-limit",
        "appendfsync",
        "cluster-require-full-coverage",
    ),
)
"""What a server is asked about itself."""


def inspect(connection: RedisConnection, options: Options) -> Limits:
    """Refuse a server that cannot keep the guarantees; return how large a message may be.

    A user without permission for INFO or CONFIG is not an error: then nothing is known, and nothing is refused.

    Raises:
        ConfigurationError: the server is too old, evicts keys, or is a cluster.
    """
    facts = facts_of(connection.call_many(QUESTIONS))
    _check(facts, options)
    _warn(facts, options.wait_replicas, connection.where)
    return Limits.of(facts)


def facts_of(replies: Sequence[object]) -> Facts:
    """What a server replied to the questions; empty where the user may not ask."""
    facts: Facts = {}
    for reply in replies:
        facts |= _pairs(reply) if isinstance(reply, list) else _parse(reply)
    return facts


def _pairs(reply: list[bytes]) -> Facts:
    texts = [part.decode("utf-8", "replace") for part in reply]
    return dict(zip(texts[::2], texts[1::2], strict=False))


def _parse(reply: object) -> Facts:
    if isinstance(reply, ResponseError) or not isinstance(reply, bytes):
        return {}
    lines = reply.decode("utf-8", "replace").splitlines()
    return {name: value for name, separator, value in (line.partition(":") for line in lines) if separator}


def _check(facts: Facts, where: Options) -> None:
    version = facts.get("redis_version", "")
    if version and int(version.partition(".")[0]) < OLDEST:
        raise ConfigurationError(f"{where} is Redis {version}; QBridge needs Redis 7.0 or later, or Valkey")
    policy = facts.get("maxmemory_policy", "")
    if policy.startswith("allkeys-"):
        raise ConfigurationError(
            f"{where} has maxmemory-policy {policy}: it deletes whole queues when memory runs short; "
            "set it to noeviction (CONFIG SET maxmemory-policy noeviction, and the same in redis.conf)"
        )
    mode = facts.get("server_mode") or facts.get("redis_mode")  # the first is Valkey's name
    if mode == "cluster" and where.deployment is not Deployment.CLUSTER:
        raise ConfigurationError(f"{where} is a node of a Redis Cluster; write redis+cluster://, and rediss+… for TLS")


def _warn(facts: Facts, wanted: int, where: object) -> None:
    replicas = facts.get("connected_slaves", "")
    if replicas and int(replicas) < wanted:
        log.warning(
            "%s has %s replicas, and publishing waits for %d of them: with fewer of them set wait_replicas lower",
            where,
            replicas,
            wanted,
        )
    if facts.get("aof_enabled") == "0":
        log.warning("%s has appendonly no: confirmed messages are lost when it crashes", where)
