"""What the shop does when an order is paid: it sends tasks, and waits for none of them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path

from shop.tasks import OrderMail, app, deliver, make_thumbnail, send_mail


def paid(order: int, to: str, total: Decimal, at: datetime, pictures: list[Path], hooks: list[str]) -> list[str]:
    """All tasks of an order, confirmed in one go for each queue; sent twice they have the same ids."""
    mail = OrderMail(to=to, order=order, total=total, paid_at=at)
    event = {"kind": "paid", "order": order}
    return app.send_many(
        [
            send_mail.options(task_id=f"mail-{order}").message(mail),
            *(make_thumbnail.message(picture, picture.with_suffix(".small.ppm")) for picture in pictures),
            *(deliver.options(task_id=f"hook-{order}-{n}").message(url, event) for n, url in enumerate(hooks)),
        ]
    )
