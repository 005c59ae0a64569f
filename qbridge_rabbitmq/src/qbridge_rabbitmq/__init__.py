"""The RabbitMQ backend of QBridge, on pika."""

from qbridge_rabbitmq.client import RabbitMQClient

__all__ = ["RabbitMQClient"]
