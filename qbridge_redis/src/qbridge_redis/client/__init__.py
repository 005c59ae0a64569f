"""The client: the calls of the contract, one module for each part of it."""

from qbridge_redis.client.client import RedisClient

__all__ = ["RedisClient"]
