"""The Redis Streams backend of QBridge."""

from qbridge_redis.client import RedisClient

__all__ = ["RedisClient"]
