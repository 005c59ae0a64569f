"""Celery with late acknowledgement, no results and confirmed publishing."""

from __future__ import annotations

import sys
from typing import Any

import celery

from benchmarks.order import Order
from benchmarks.peers.driver import Peer, main

app = celery.Celery("bench", set_as_current=True)


def _options(url: str, confirm: bool) -> dict[str, object]:
    if url.startswith("amqp"):
        return {"confirm_publish": confirm}
    if "sqs" in url:
        # Without a pause between two requests, which is a second by default.
        return {"region": "us-east-1", "is_secure": False, "visibility_timeout": 3600, "polling_interval": 0}
    return {}


class Celery(Peer):
    """The variant is the worker's pool: "threads", "solo" or "prefork"."""

    blocking = True

    def __init__(self, order: Order) -> None:
        super().__init__(order)
        confirm = order.role != "fill"  # which is not measured
        app.conf.update(
            broker_url=order.url.removeprefix("kombu+"),
            task_default_queue=order.queue,
            task_acks_late=True,
            task_reject_on_worker_lost=True,
            task_ignore_result=True,
            # The default is 4 messages for each thread; more serves quick tasks.
            worker_prefetch_multiplier=10,
            worker_send_task_events=False,
            worker_hijack_root_logger=False,
            broker_transport_options=_options(order.url, confirm),
            broker_connection_retry_on_startup=True,
        )
        handle = self.meter.handle

        @app.task(name="bench.task", autoretry_for=(Exception,), default_retry_delay=0, max_retries=3)
        def task(payload: dict[str, Any]) -> None:
            handle(payload)

        self.task = task

    async def send(self, payload: dict[str, Any]) -> None:
        """Publish one."""
        self.task.delay(payload)

    async def close(self) -> None:
        """Disconnect; a question to the server makes sure that it has what was not confirmed."""
        with app.producer_pool.acquire() as producer:
            producer.channel.queue_declare(self.order.queue, passive=True)
        app.close()

    def work(self) -> None:
        """Run the worker as its command line does."""
        options = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
        pool = [f"--pool={self.order.variant}", f"--concurrency={self.order.threads}"]
        app.worker_main(["--quiet", "worker", *pool, *options])


if __name__ == "__main__":
    sys.modules["benchmarks.peers.celery"] = sys.modules["__main__"]
    main(Celery)
