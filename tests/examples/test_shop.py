"""The shop: what its tasks do, without a broker."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from qbridge_core import QueueClient, Reason
from support.customers import Customer, MailServer


@pytest.fixture
def client(shop: ModuleType, unique_name: str) -> Iterator[QueueClient]:
    """The app on a broker of its own."""
    with shop.app.open(f"memory://{unique_name}") as client:
        yield client


def test_an_order_is_mailed_drawn_and_told(
    shop: ModuleType, client: QueueClient, mail_server: MailServer, customer: Callable[..., Customer], picture: Path
) -> None:
    """One call sends it all; a thread, a child process and a coroutine do it."""
    orders = importlib.import_module("shop.orders")
    told = customer(200)
    paid_at = datetime(2026, 1, 2, tzinfo=UTC)
    mail = shop.OrderMail(to="ann@example.org", order=7, total=Decimal("9.90"), paid_at=paid_at)
    ids = orders.paid(mail, [picture], [told.url])
    assert (ids[0], ids[2]) == ("mail-7", "hook-7-0")
    assert shop.app.run_until_idle(90.0).succeeded == 3
    assert [(each["To"], each["Subject"], each.get_content().strip()) for each in mail_server.mails] == [
        ("ann@example.org", "Order 7", "9.90 EUR, 2026-01-02")
    ]
    assert picture.with_suffix(".small.ppm").read_bytes() == b"P6 1 1 255\n\x00\x01\x02"
    assert told.told == [("hook-7-0", {"kind": "paid", "order": 7})]


def test_a_customer_is_told_again_until_nobody_wants_to_know(
    shop: ModuleType, client: QueueClient, customer: Callable[..., Customer]
) -> None:
    """At the time that the customer asked for; what is gone is a letter, which can be sent back."""
    busy = customer(503, 410, 200)
    shop.deliver.send(busy.url, {"kind": "paid"})
    shop.app.run_until_idle(60.0, ["webhooks"])
    (letter,) = client.dead_letters("webhooks.dead")
    assert (letter.reason, letter.attempts) == (Reason.FAILED, 2)
    assert letter.exception_message == f"{busy.url} wants to hear no more"
    assert client.replay("webhooks.dead") == 1
    assert shop.app.run_until_idle(60.0, ["webhooks"]).succeeded == 1
    assert len(busy.told) == 3


def test_a_mail_that_is_none_is_a_letter(shop: ModuleType, client: QueueClient, mail_server: MailServer) -> None:
    """It says what is wrong, and nothing was tried."""
    client.declare("emails")
    client.publish("emails", b'{"task": "shop.tasks.send_mail", "payload": {"mail": {"to": "ann", "order": "x"}}}')
    shop.app.run_until_idle(60.0, ["emails"])
    (letter,) = client.dead_letters("emails.dead")
    assert letter.reason is Reason.MALFORMED
    assert "payload.mail.order: Input should be a valid integer" in letter.exception_message
    assert mail_server.mails == []


def test_what_is_no_picture_is_a_letter(shop: ModuleType, client: QueueClient, tmp_path: Path) -> None:
    """A call tells the same at once, as in a test of the function alone."""
    text = tmp_path / "text.ppm"
    text.write_bytes(b"P3 1 1 255 0 0 0")
    with pytest.raises(Exception, match="no picture that can be read"):
        shop.make_thumbnail(text, text)
    shop.make_thumbnail.send(text, text)
    shop.app.run_until_idle(90.0, ["thumbnails"])
    (letter,) = client.dead_letters("thumbnails.dead")
    assert (letter.reason, letter.attempts) == (Reason.FAILED, 1)
