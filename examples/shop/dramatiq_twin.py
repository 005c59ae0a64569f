"""The same shop with Dramatiq, for comparison. Pictures want processes and the rest threads, so it takes two workers:

dramatiq shop.dramatiq_twin -Q emails webhooks -p 1 -t 200
dramatiq shop.dramatiq_twin -Q thumbnails -p 2 -t 1
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.errors import Retry
from dramatiq.middleware import AsyncIO, CurrentMessage

from shop.business import BusyError, NoPictureError, NotWantedError, OrderMail, call, shrink, thank

broker = RabbitmqBroker(url=os.environ.get("DRAMATIQ_BROKER_URL"), confirm_delivery=True)
broker.add_middleware(AsyncIO())
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)
BACKOFF: dict[str, Any] = {"min_backoff": 1_000, "max_backoff": 30_000}


@dramatiq.actor(queue_name="emails", max_retries=8, time_limit=15_000, **BACKOFF)
def send_mail(mail: dict[str, Any], locale: str = "en") -> None:
    """Thank for an order."""
    thank(OrderMail.model_validate(mail), locale)


@dramatiq.actor(queue_name="thumbnails", max_retries=1, min_backoff=1, time_limit=30_000, throws=NoPictureError)
def make_thumbnail(source: str, target: str, factor: int = 4) -> None:
    """Draw a picture smaller."""
    shrink(Path(source), Path(target), factor)


@dramatiq.actor(queue_name="webhooks", max_retries=20, throws=NotWantedError, **BACKOFF)
async def deliver(url: str, event: dict[str, Any]) -> None:
    """Tell a customer's program what has happened."""
    try:
        await call(url, event, CurrentMessage.get_current_message().message_id)
    except BusyError as exc:
        raise Retry(delay=int(exc.after * 1000)) from exc


def paid(mail: OrderMail, pictures: list[Path], hooks: list[str]) -> list[str]:
    """All tasks of an order that is paid, confirmed one by one; a mail sent twice has the same id."""
    event = {"kind": "paid", "order": mail.order}
    messages = [
        send_mail.message(mail.model_dump(mode="json")).copy(message_id=f"mail-{mail.order}"),
        *(make_thumbnail.message(str(picture), str(picture.with_suffix(".small.ppm"))) for picture in pictures),
        *(deliver.message(url, event).copy(message_id=f"hook-{mail.order}-{n}") for n, url in enumerate(hooks)),
    ]
    return [broker.enqueue(message).message_id for message in messages]
