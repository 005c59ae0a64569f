"""Dramatiq with confirmed publishing. It always acknowledges after the task."""

from __future__ import annotations

import signal
import threading
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AgeLimit, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, main


class Dramatiq(Peer):
    """One form: threads."""

    blocking = True

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        # The default middleware, without Prometheus and with retries that do not wait.
        middleware = [AgeLimit(), TimeLimit(), ShutdownNotifications(), Callbacks(), Pipelines()]
        middleware.append(Retries(max_retries=3, min_backoff=1, max_backoff=1))
        if order.url.startswith("amqp"):
            confirm = order.role != "fill"  # which is not measured
            self.broker = RabbitmqBroker(url=order.url, confirm_delivery=confirm, middleware=middleware)
        else:
            self.broker = RedisBroker(url=order.url, middleware=middleware)
        dramatiq.set_broker(self.broker)
        self.task = dramatiq.actor(self.meter.handle, actor_name="task", queue_name=order.queue)

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        self.task.send(payload)

    async def close(self) -> None:
        """Disconnect."""
        self.broker.close()

    def work(self) -> None:
        """Run a worker in this process, as each process of its command line does."""
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        worker = dramatiq.Worker(self.broker, worker_threads=self.order.threads)
        worker.start()
        stop.wait()
        worker.stop(timeout=2000)


if __name__ == "__main__":
    main(Dramatiq)
