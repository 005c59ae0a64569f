"""What the shop does, whatever runs it: it writes mails, draws thumbnails, and calls its customers' programs."""

from __future__ import annotations

import os
import smtplib
from datetime import datetime
from decimal import Decimal
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
from pydantic import BaseModel


class OrderMail(BaseModel):
    """What a mail about an order says."""

    to: str
    order: int
    total: Decimal
    paid_at: datetime


class NoPictureError(Exception):
    """A file cannot be read as a picture."""


class NotWantedError(Exception):
    """A customer's program wants to hear no more."""


class BusyError(Exception):
    """A customer's program wants to be called again in ``after`` seconds."""

    def __init__(self, after: float) -> None:
        super().__init__(f"busy for {after:g} s")
        self.after = after


def thank(mail: OrderMail, locale: str) -> None:
    """Send a mail."""
    message = EmailMessage()
    message["To"], message["From"] = mail.to, "shop@example.org"
    message["Subject"] = {"en": "Order", "de": "Bestellung"}[locale] + f" {mail.order}"
    message.set_content(f"{mail.total} EUR, {mail.paid_at:%Y-%m-%d}")
    with smtplib.SMTP(os.environ.get("SMTP_SERVER", "localhost:25"), timeout=10) as smtp:
        smtp.send_message(message)


def shrink(source: Path, target: Path, factor: int) -> None:
    """Take each n-th pixel of a picture (PPM, 24 bits)."""
    kind, width, height, most, pixels = source.read_bytes().split(maxsplit=4)
    if (kind, most) != (b"P6", b"255"):
        raise NoPictureError(f"{source} is no picture that can be read")
    row = int(width) * 3
    rows = [pixels[y * row : (y + 1) * row] for y in range(0, int(height), factor)]
    small = [b"".join(line[x : x + 3] for x in range(0, row, 3 * factor)) for line in rows]
    target.write_bytes(b"P6 %d %d 255\n" % (len(small[0]) // 3, len(small)) + b"".join(small))


async def call(url: str, event: dict[str, Any], key: str) -> None:
    """Tell a customer's program, which knows by the key what it was told before."""
    async with httpx.AsyncClient(timeout=5) as http:
        answer = await http.post(url, json=event, headers={"Idempotency-Key": key})
    if answer.status_code == 410:
        raise NotWantedError(f"{url} wants to hear no more")
    if answer.is_error and "Retry-After" in answer.headers:
        raise BusyError(float(answer.headers["Retry-After"]))
    answer.raise_for_status()
