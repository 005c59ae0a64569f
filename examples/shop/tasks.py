"""The tasks of the shop. In examples/, with QBRIDGE_URL set: qbridge worker shop.tasks:app"""

from __future__ import annotations

import asyncio
import json
import os
import smtplib
from datetime import datetime
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pydantic import BaseModel

from qbridge_core import App, ExponentialBackoff, Reject, Retry, TaskContext

app = App()
app.queue("thumbnails", executor="process", max_workers=2)
app.queue("webhooks", max_workers=200)
BACKOFF = ExponentialBackoff(base=1, cap=30)


class OrderMail(BaseModel):
    """What a mail about an order says."""

    to: str
    order: int
    total: Decimal
    paid_at: datetime


@app.task(queue="emails", max_retries=8, backoff=BACKOFF, task_timeout=15)
def send_mail(mail: OrderMail, locale: str = "en") -> None:
    """Thank for an order."""
    message = EmailMessage()
    message["To"], message["From"] = mail.to, "shop@example.org"
    message["Subject"] = {"en": "Order", "de": "Bestellung"}[locale] + f" {mail.order}"
    message.set_content(f"{mail.total} EUR, {mail.paid_at:%Y-%m-%d}")
    with smtplib.SMTP(os.environ.get("SMTP_SERVER", "localhost:25"), timeout=10) as smtp:
        smtp.send_message(message)


@app.task(queue="thumbnails", max_retries=1, task_timeout=30)
def make_thumbnail(source: Path, target: Path, factor: int = 4) -> None:
    """Take each n-th pixel of a picture (PPM, 24 bits)."""
    kind, width, height, most, pixels = source.read_bytes().split(maxsplit=4)
    if (kind, most) != (b"P6", b"255"):
        raise Reject(f"{source} is no picture that can be read")
    row = int(width) * 3
    rows = [pixels[y * row : (y + 1) * row] for y in range(0, int(height), factor)]
    small = [b"".join(line[x : x + 3] for x in range(0, row, 3 * factor)) for line in rows]
    target.write_bytes(b"P6 %d %d 255\n" % (len(small[0]) // 3, len(small)) + b"".join(small))


@app.task(queue="webhooks", max_retries=20, backoff=BACKOFF)
async def deliver(task: TaskContext, url: str, event: dict[str, Any]) -> None:
    """Tell another program, which knows by the id what it was told before."""
    headers = {"Content-Type": "application/json", "Idempotency-Key": task.task_id}
    request = Request(url, json.dumps(event).encode(), headers)  # noqa: S310 - the shop's customers choose them
    try:
        await asyncio.to_thread(urlopen, request, timeout=5)
    except HTTPError as exc:
        if exc.code == 410:
            raise Reject("nobody wants to know any more") from exc
        raise Retry(after=float(exc.headers.get("Retry-After", "5"))) from exc
