"""What the server must be like, looked at once when a client connects."""

from __future__ import annotations

from typing import Final

from redis.exceptions import ResponseError

from qbridge_core.backend import ConfigurationError
from qbridge_redis.connection.connection import RedisConnection
from qbridge_redis.connection.options import Deployment, Options
from qbridge_redis.connection.outage_log import log
from qbridge_redis.protocol.limits import Limits

_OLDEST: Final = 7
Facts = dict[str, str]


def inspect(connection: RedisConnection, options: Options) -> Limits:
    """Refuse a server that cannot keep the guarantees; return how large a message may be.

    A user without permission for INFO or CONFIG is not an error: then nothing is known, and nothing is refused.

    Raises:
        ConfigurationError: the server is too old, evicts keys, or is a cluster.
    """
    sections = ("server", "memory", "persistence", "replication")
    limits = ("CONFIG", "GET", "proto-max-bulk-len", "client-query-buffer-limit")
    replies = connection.call_many([*(("INFO", name) for name in sections), limits])
    facts: Facts = {}
    for reply in replies[:-1]:
        facts |= _parse(reply)
    _check(facts, options)
    _warn(facts, options)
    config = replies[-1]
    return Limits.of(dict(zip(config[::2], config[1::2], strict=False)) if isinstance(config, list) else {})


def _parse(reply: object) -> Facts:
    if isinstance(reply, ResponseError) or not isinstance(reply, bytes):
        return {}
    lines = reply.decode("utf-8", "replace").splitlines()
    return {name: value for name, separator, value in (line.partition(":") for line in lines) if separator}


def _check(facts: Facts, where: Options) -> None:
    version = facts.get("redis_version", "")
    if version and int(version.partition(".")[0]) < _OLDEST:
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


def _warn(facts: Facts, where: Options) -> None:
    replicas, wanted = facts.get("connected_slaves", ""), where.wait_replicas
    if replicas and int(replicas) < wanted:
        log.warning(
            "%s has %s replicas, and publishing waits for %d of them: with fewer of them set wait_replicas lower",
            where,
            replicas,
            wanted,
        )
    if facts.get("aof_enabled") == "0":
        log.warning("%s has appendonly no: confirmed messages are lost when it crashes", where)
