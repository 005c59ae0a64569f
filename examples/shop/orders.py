"""What the shop does when an order is paid: it sends tasks, and waits for none of them."""

from __future__ import annotations

from pathlib import Path

from shop.business import OrderMail
from shop.tasks import app, deliver, make_thumbnail, send_mail


def paid(mail: OrderMail, pictures: list[Path], hooks: list[str]) -> list[str]:
    """All tasks of an order, confirmed in one go for each queue; sent twice they have the same ids."""
    event = {"kind": "paid", "order": mail.order}
    return app.send_many(
        [
            send_mail.options(task_id=f"mail-{mail.order}").message(mail),
            *(make_thumbnail.message(picture, picture.with_suffix(".small.ppm")) for picture in pictures),
            *(deliver.options(task_id=f"hook-{mail.order}-{n}").message(url, event) for n, url in enumerate(hooks)),
        ]
    )
