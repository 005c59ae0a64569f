"""The shop: what its tasks do, without a broker, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from qbridge_core import BrokerUnavailableError, Reason
from qbridge_pytest import Kit
from support.customers import Customer, MailServer


@pytest.fixture
def qbridge(shop: ModuleType, qbridge: Kit) -> Kit:
    """With the app of the shop."""
    qbridge.open(shop.app)
    return qbridge


def test_an_order_is_mailed_drawn_and_told(
    shop: ModuleType, qbridge: Kit, mail_server: MailServer, customer: Callable[..., Customer], picture: Path
) -> None:
    """One call sends it all; a thread, a child process and a coroutine do it."""
    told = customer(200)
    paid_at = datetime(2026, 1, 2, tzinfo=UTC)
    mail = shop.OrderMail(to="ann@example.org", order=7, total=Decimal("9.90"), paid_at=paid_at)
    ids = shop.paid(mail, [picture], [told.url])
    assert (ids[0], ids[2]) == ("mail-7", "hook-7-0")
    qbridge.sent(shop.send_mail, payload={"mail": {"to": "ann@example.org", "total": "9.90"}}, task_id="mail-7")
    assert qbridge.run(90.0).succeeded == 3
    assert [(each["To"], each["Subject"], each.get_content().strip()) for each in mail_server.mails] == [
        ("ann@example.org", "Order 7", "9.90 EUR, 2026-01-02")
    ]
    assert picture.with_suffix(".small.ppm").read_bytes() == b"P6 1 1 255\n\x00\x01\x02"
    assert told.told == [("hook-7-0", {"kind": "paid", "order": 7})]


def test_a_mail_is_tried_again_while_its_server_is_away(
    shop: ModuleType, qbridge: Kit, mail_server: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later and later, and nobody waits for it; then it is a letter, which can be sent back."""
    address = mail_server.address
    monkeypatch.setenv("SMTP_SERVER", "127.0.0.1:1")
    mail = shop.OrderMail(to="ann@example.org", order=7, total=1, paid_at=datetime(2026, 1, 2, tzinfo=UTC))
    shop.send_mail.options(task_id="mail-7").send(mail)
    assert qbridge.run().retried == 8
    steps = qbridge.history("mail-7")
    assert [step.what for step in steps] == ["sent", *["received", "retried"] * 8, "received", "dead-lettered"]
    assert {step.exception for step in steps if step.what == "retried"} == {"ConnectionRefusedError"}
    assert 0 < sum(step.delay for step in steps) <= 1 + 2 + 4 + 8 + 16 + 30 * 3
    assert qbridge.letters(shop.send_mail)[0].attempts == 9
    monkeypatch.setenv("SMTP_SERVER", address)
    assert qbridge.client.replay("emails.dead") == 1
    assert qbridge.run().succeeded == len(mail_server.mails) == 1


def test_a_customer_is_told_again_until_nobody_wants_to_know(
    shop: ModuleType, qbridge: Kit, customer: Callable[..., Customer]
) -> None:
    """At the time that the customer asked for; what is gone is a letter, which can be sent back."""
    busy = customer(503, 410, 200)
    task_id = shop.deliver.send(busy.url, {"kind": "paid"})
    qbridge.run(60.0)
    assert [step.delay for step in qbridge.history(task_id) if step.what == "retried"] == [0.1]
    (letter,) = qbridge.letters("webhooks")
    assert (letter.reason, letter.attempts) == (Reason.FAILED, 2)
    assert letter.exception_message == f"{busy.url} wants to hear no more"
    assert qbridge.client.replay("webhooks.dead") == 1
    assert qbridge.run(60.0).succeeded == 1
    assert len(busy.told) == 3


def test_a_mail_that_is_none_is_a_letter(shop: ModuleType, qbridge: Kit, mail_server: MailServer) -> None:
    """It says what is wrong, and nothing was tried."""
    body = b'{"task": "shop.tasks.send_mail", "payload": {"mail": {"to": "ann", "order": "x"}}}'
    qbridge.client.publish("emails", body)
    qbridge.run(60.0)
    (letter,) = qbridge.letters("emails")
    assert letter.reason is Reason.MALFORMED
    assert "payload.mail.order: Input should be a valid integer" in letter.exception_message
    assert mail_server.mails == []


def test_what_is_no_picture_is_a_letter(shop: ModuleType, qbridge: Kit, tmp_path: Path) -> None:
    """A call tells the same at once, as in a test of the function alone."""
    text = tmp_path / "text.ppm"
    text.write_bytes(b"P3 1 1 255 0 0 0")
    with pytest.raises(Exception, match="no picture that can be read"):
        shop.make_thumbnail(text, text)
    shop.make_thumbnail.send(text, text)
    qbridge.run(90.0)
    (letter,) = qbridge.letters(shop.make_thumbnail)
    assert (letter.reason, letter.attempts) == (Reason.FAILED, 1)


@pytest.mark.parametrize(("after", "calls"), [("received", 1), ("start", 1), ("done", 2)])
def test_a_customer_knows_a_call_that_comes_twice(
    shop: ModuleType, qbridge: Kit, customer: Callable[..., Customer], after: str, calls: int
) -> None:
    """Wherever a worker dies, the event comes, and with one id."""
    told = customer(*[200] * calls)
    qbridge.crash(after=after, of=shop.deliver)
    task_id = shop.deliver.send(told.url, {"kind": "paid"})
    assert qbridge.run(60.0).succeeded == qbridge.faults == 1
    assert told.told == [(task_id, {"kind": "paid"})] * calls


def test_a_picture_is_drawn_again_when_its_worker_has_died(shop: ModuleType, qbridge: Kit, picture: Path) -> None:
    """Over the one that is there."""
    small = picture.with_suffix(".small.ppm")
    qbridge.crash(after="done", of="thumbnails")
    shop.make_thumbnail.send(picture, small)
    assert qbridge.run(90.0).succeeded == qbridge.faults == 1
    assert small.read_bytes() == b"P6 1 1 255\n\x00\x01\x02"


def test_an_order_waits_for_a_broker_that_is_away(
    shop: ModuleType, qbridge: Kit, customer: Callable[..., Customer]
) -> None:
    """Who sends is told, and what was sent before is done when the broker is back."""
    told = customer(200)
    shop.deliver.send(told.url, {"kind": "paid"})
    qbridge.broker_down("1h")
    with pytest.raises(BrokerUnavailableError):
        shop.deliver.send(told.url, {"kind": "sent"})
    assert qbridge.run(60.0).succeeded == 1
    assert [event for _, event in told.told] == [{"kind": "paid"}]
