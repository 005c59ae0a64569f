"""kombu's Redis transport: lists, from which a message is gone when it is received."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Final

from qbridge_core.backend import AuthenticationError, BrokerBlockedError, ConfigurationError, OptionReader
from qbridge_kombu.protocol.messages import Received
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.store import StoreTransport
from qbridge_kombu.transports.virtual import received

_DECLARED: Final = "qbridge.kombu.queues"
_NO_ROOM: Final = ("OOM", "MISCONF", "NOREPLICAS", "READONLY")
_NO_RIGHT: Final = ("NOAUTH", "WRONGPASS", "NOPERM")


class RedisListsTransport(StoreTransport):
    """``kombu+redis://``, ``kombu+rediss://``: lists, as Celery has them. qbridge-redis loses nothing."""

    required = "'kombu[redis]'"
    capabilities = replace(StoreTransport.capabilities, browse=True, ordered=True, exact_stats=True, pause=True)
    options: ClassVar[Mapping[str, OptionReader]] = {}

    def connection_arguments(self) -> Mapping[str, Any]:
        """Where the server is; certificates are always checked, which kombu leaves out by default."""
        arguments = dict(super().connection_arguments())
        if self.url.scheme.endswith("rediss"):
            # redis-py before 6.0 compares no name with that of the certificate by itself.
            arguments["ssl"] = {"ssl_cert_reqs": "required", "ssl_check_hostname": True}
        return {**arguments, "virtual_host": self.url.path or "0"}

    def transport_options(self) -> Mapping[str, Any]:
        """Deadlines, which kombu does not set."""
        return {
            "socket_timeout": self.given["request_timeout"],
            "socket_connect_timeout": self.given["connect_timeout"],
        }

    def connected(self, session: KombuSession) -> None:
        """Have each command sent once: redis-py repeats one whose reply was lost, and a message is there twice."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        pool = session.channel.pool
        pool.connection_kwargs["retry"] = Retry(NoBackoff(), 0)
        pool.disconnect()
        pool.reset()

    def closing(self, session: KombuSession) -> None:
        """kombu leaves the connections to the garbage collector."""
        session.channel.pool.disconnect()

    def translate(self, exc: Exception, doing: str) -> Exception | None:
        """What the first word of a refusal means."""
        word = str(exc).partition(" ")[0]
        if word in _NO_ROOM:
            return BrokerBlockedError(f"cannot {doing}: the server takes nothing now: {exc}")
        if word in _NO_RIGHT or type(exc).__name__ == "AuthenticationError":
            return AuthenticationError(f"cannot {doing}: the server refuses it: {exc}")
        if word == "WRONGTYPE":
            return ConfigurationError(f"cannot {doing}: a key of that name is no list")
        return None

    def exists(self, session: KombuSession, name: str) -> bool:
        """Whether somebody has declared it, or a message is there: an empty list does not exist."""
        with session.channel.conn_or_acquire() as client:
            return bool(client.sismember(_DECLARED, name)) or bool(session.channel._has_queue(name))

    def create(self, session: KombuSession, name: str) -> None:
        """Leave a mark."""
        with session.channel.conn_or_acquire() as client:
            client.sadd(_DECLARED, name)
        self.known(session).add(name)

    def names(self, session: KombuSession) -> list[str]:
        """Those that have left a mark."""
        with session.channel.conn_or_acquire() as client:
            return [name.decode("utf-8", "replace") for name in client.smembers(_DECLARED)]

    def peek(self, session: KombuSession, name: str, limit: int) -> list[Received]:
        """Read the ends of the lists, one for each priority."""
        channel = session.channel
        found: list[Received] = []
        with channel.conn_or_acquire() as client:
            for priority in channel.priority_steps:
                if len(found) < limit:
                    texts = client.lrange(channel._q_for_pri(name, priority), len(found) - limit, -1)
                    found += [received(channel, json.loads(text)) for text in reversed(texts)]
        return found
