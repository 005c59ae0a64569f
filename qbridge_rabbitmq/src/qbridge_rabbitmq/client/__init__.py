"""The client: the calls of the contract, one module for each part of it."""

from qbridge_rabbitmq.client.client import RabbitMQClient

__all__ = ["RabbitMQClient"]
