"""``RedisClient``: the QBridge contract on Redis Streams."""

from __future__ import annotations

from qbridge_core.backend import Capabilities, Rates
from qbridge_redis.client.consuming import Consuming
from qbridge_redis.client.holding import Holding
from qbridge_redis.client.letters import Letters
from qbridge_redis.client.operations import Operations
from qbridge_redis.client.producing import Producing
from qbridge_redis.connection.options import Options
from qbridge_redis.queues.delays import LONGEST_DELAY


class RedisClient(Producing, Consuming, Operations, Letters, Holding):
    """A client of Redis (7.0 or later) or Valkey. Thread-safe; not to be used by a child process after a fork.

    A queue is a stream with one consumer group, and its name is the stream's key: anything that can ``XADD`` can
    publish, with the field ``body``. An entry leaves the stream when it is settled. A worker holds no more than
    it asked for; it renews its leases as long as its process lives, and others take over what a dead one held.
    All workers of a queue must have the same ``lease``: one with a shorter one takes over what the others run.

    Args:
        redis_url: ``redis://user:password@host:port/db``; with sentinels
            ``redis+sentinel://user:password@sentinel1:26379,sentinel2:26379/service/db``, where user and password are
            those of the server; for a cluster ``redis+cluster://user:password@node1:6379,node2:6379``. Write
            ``rediss`` in place of ``redis`` for TLS. ``unix:///path/to/redis.sock?db=0`` for a Unix socket.
        options: ``prefix`` ("", put before every queue name), ``group`` ("qbridge"), ``wait_replicas`` (how many
            replicas must have a message before ``publish`` returns: 0, with sentinels and clusters 1), and in
            seconds ``lease`` (30), ``publish_timeout`` (10), ``connect_timeout`` (3), ``socket_timeout`` (3); for the
            sentinels ``sentinel_username`` and ``sentinel_password``; for TLS ``cafile``, ``certfile``, ``keyfile``.
            They may be in the URL's query as well.

    Raises:
        InvalidURLError: the URL cannot be understood.
        UnknownOptionError: an option that does not exist.
        ConfigurationError: an option's value is unusable.
    """

    capabilities = Capabilities(
        delay=True,
        max_delay=LONGEST_DELAY,
        browse=True,
        crashes=True,
        durable=True,
        shared=True,
        instant_ack=True,
        letters=True,
        diagnoses=True,
        details=frozenset({"dead", "consumers", "oldest_age", "in_rate", "out_rate", "unsettled"}),
        queues=True,
        sent_at=True,
        history=True,
        purge_delayed=True,
        browse_delayed=True,
        pause=True,
        imports=True,
    )

    logs_outages = True
    waits_for_any = True
    reads_ahead = False
    system = "redis"

    def __init__(self, redis_url: str = "redis://localhost:6379/0", **options: object) -> None:
        super().__init__(Options.parse(redis_url, options))
        self._rates = Rates()

    def __repr__(self) -> str:
        prefix = f", prefix={self._options.prefix!r}" if self._options.prefix else ""
        return f"RedisClient('{self._options}'{prefix})"
