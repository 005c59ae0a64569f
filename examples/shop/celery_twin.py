"""The same shop with Celery, for comparison. Each kind of work wants a pool, and so a worker, of its own, in examples/:

celery -A shop.celery_twin worker -Q emails -P threads -c 10
celery -A shop.celery_twin worker -Q thumbnails -P prefork -c 2
celery -A shop.celery_twin worker -Q webhooks -P threads -c 200
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from celery import Celery, Task

from shop.business import BusyError, NoPictureError, NotWantedError, OrderMail, call, shrink, thank

BACKOFF: dict[str, Any] = {"autoretry_for": [Exception], "retry_backoff": 1, "retry_backoff_max": 30}


class Kept(Task):
    """Celery has no dead letters: what has failed for good is sent to a queue that no worker reads."""

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Keep it, and say why."""
        headers = {"reason": repr(exc), "traceback": str(einfo)}
        self.app.send_task(self.name, args, kwargs, queue=f"{self.queue}.dead", task_id=task_id, headers=headers)


app = Celery("shop", broker=os.environ.get("CELERY_BROKER_URL"), task_cls=Kept)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"confirm_publish": True},
)


@app.task(queue="emails", pydantic=True, max_retries=8, **BACKOFF)
def send_mail(mail: OrderMail, locale: str = "en") -> None:
    """Thank for an order. There is no time limit: threads know none."""
    thank(mail, locale)


@app.task(queue="thumbnails", dont_autoretry_for=[NoPictureError], max_retries=1, soft_time_limit=30, **BACKOFF)
def make_thumbnail(source: str, target: str, factor: int = 4) -> None:
    """Draw a picture smaller."""
    shrink(Path(source), Path(target), factor)


@app.task(bind=True, queue="webhooks", dont_autoretry_for=[NotWantedError], max_retries=20, **BACKOFF)
def deliver(self: Task, url: str, event: dict[str, Any]) -> None:
    """Tell a customer's program what has happened. Celery runs no coroutines: each has a thread and a loop."""
    try:
        asyncio.run(call(url, event, self.request.id))
    except BusyError as exc:
        raise self.retry(exc=exc, countdown=exc.after) from exc


def paid(mail: OrderMail, pictures: list[Path], hooks: list[str]) -> list[str]:
    """All tasks of an order that is paid, confirmed one by one; a mail sent twice has the same id."""
    event = {"kind": "paid", "order": mail.order}
    calls = [
        send_mail.s(mail.model_dump(mode="json")).set(task_id=f"mail-{mail.order}"),
        *(make_thumbnail.s(str(picture), str(picture.with_suffix(".small.ppm"))) for picture in pictures),
        *(deliver.s(url, event).set(task_id=f"hook-{mail.order}-{n}") for n, url in enumerate(hooks)),
    ]
    return [each.apply_async().id for each in calls]
