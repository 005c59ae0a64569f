"""``from QBridge.rabbitmq_client import RabbitMQClient``; the backend is imported when the name is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbridge_rabbitmq import RabbitMQClient

__all__ = ["RabbitMQClient"]


def __getattr__(name: str) -> object:
    if name != "RabbitMQClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from qbridge_rabbitmq import RabbitMQClient
    except ModuleNotFoundError as exc:
        if exc.name not in ("qbridge_rabbitmq", "pika"):
            raise
        from qbridge_core.contract.registry import how_to_install

        raise ImportError(f"the RabbitMQ backend is not installed; {how_to_install('rabbitmq')}") from exc
    return RabbitMQClient
