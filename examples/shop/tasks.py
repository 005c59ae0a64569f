"""The tasks of the shop, and what sends them. In examples/, with QBRIDGE_URL set: qbridge worker shop.tasks:app"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qbridge_core import App, ExponentialBackoff, Retry, TaskContext
from shop.business import BusyError, NoPictureError, NotWantedError, OrderMail, call, shrink, thank

app = App()
app.queue("thumbnails", executor="process", max_workers=2)
app.queue("webhooks", max_workers=200)
BACKOFF = ExponentialBackoff(base=1, cap=30)


@app.task(queue="emails", max_retries=8, backoff=BACKOFF, task_timeout=15)
def send_mail(mail: OrderMail, locale: str = "en") -> None:
    """Thank for an order."""
    thank(mail, locale)


@app.task(queue="thumbnails", max_retries=1, task_timeout=30, dead_letter_on=[NoPictureError])
def make_thumbnail(source: Path, target: Path, factor: int = 4) -> None:
    """Draw a picture smaller."""
    shrink(source, target, factor)


@app.task(queue="webhooks", max_retries=20, backoff=BACKOFF, dead_letter_on=[NotWantedError])
async def deliver(task: TaskContext, url: str, event: dict[str, Any]) -> None:
    """Tell a customer's program what has happened."""
    try:
        await call(url, event, task.task_id)
    except BusyError as exc:
        raise Retry(after=exc.after) from exc


def paid(mail: OrderMail, pictures: list[Path], hooks: list[str]) -> list[str]:
    """All tasks of an order that is paid, confirmed in one go for each queue; a mail sent twice has the same id."""
    event = {"kind": "paid", "order": mail.order}
    messages = [
        send_mail.options(task_id=f"mail-{mail.order}").message(mail),
        *(make_thumbnail.message(picture, picture.with_suffix(".small.ppm")) for picture in pictures),
        *(deliver.options(task_id=f"hook-{mail.order}-{n}").message(url, event) for n, url in enumerate(hooks)),
    ]
    return app.send_many(messages)
