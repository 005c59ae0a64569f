"""The shop: what its tasks do, without a mail server and without customers."""

from __future__ import annotations

import importlib
import json
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qbridge_core import QueueClient, Reason
from support.wait import wait_for

EXAMPLES = str(Path(__file__).parents[2] / "examples")
PICTURE = b"P6 4 4 255\n" + bytes(range(48))


@pytest.fixture(scope="module")
def shop() -> Iterator[ModuleType]:
    """The module with the tasks, as child processes import it, too."""
    sys.path.insert(0, EXAMPLES)
    yield importlib.import_module("shop.tasks")
    sys.path.remove(EXAMPLES)


@pytest.fixture
def client(shop: ModuleType, unique_name: str) -> Iterator[QueueClient]:
    """The app on a broker of its own."""
    with shop.app.open(f"memory://{unique_name}") as client:
        yield client


@pytest.fixture
def mails(shop: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[EmailMessage]:
    """What the shop has sent."""
    sent: list[EmailMessage] = []

    class Server:
        """Takes all mails."""

        def __init__(self, host: str, timeout: float) -> None:
            """Connect to nobody."""

        def __enter__(self) -> Server:
            return self

        def __exit__(self, *_: object) -> None:
            """Disconnect."""

        def send_message(self, message: EmailMessage) -> None:
            """Keep it."""
            sent.append(message)

    monkeypatch.setattr(shop.smtplib, "SMTP", Server)
    return sent


class Customer:
    """A web server that answers with these codes, one after the other."""

    def __init__(self, *codes: int) -> None:
        told: list[tuple[str, Any]] = []
        self.told = told
        answers = iter(codes)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.append((self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(next(answers))
                self.send_header("Retry-After", "0.1")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
def customer(request: pytest.FixtureRequest) -> Iterator[Customer]:
    """It answers as the parameter says."""
    customer = Customer(*request.param)
    yield customer
    customer.server.shutdown()
    customer.server.server_close()


@pytest.mark.parametrize("customer", [(200,)], indirect=True)
def test_an_order_is_mailed_drawn_and_told(
    shop: ModuleType, client: QueueClient, mails: list[EmailMessage], customer: Customer, tmp_path: Path
) -> None:
    """One call sends it all; a thread, a child process and a coroutine do it."""
    orders = importlib.import_module("shop.orders")
    picture = tmp_path / "cat.ppm"
    picture.write_bytes(PICTURE)
    ids = orders.paid(
        7, "ann@example.org", Decimal("9.90"), datetime(2026, 1, 2, tzinfo=UTC), [picture], [customer.url]
    )
    assert (ids[0], ids[2]) == ("mail-7", "hook-7-0")
    assert shop.app.run_until_idle(90.0).succeeded == 3
    assert [(mail["To"], mail["Subject"], mail.get_content()) for mail in mails] == [
        ("ann@example.org", "Order 7", "9.90 EUR, 2026-01-02\n")
    ]
    assert (tmp_path / "cat.small.ppm").read_bytes() == b"P6 1 1 255\n\x00\x01\x02"
    assert customer.told == [("hook-7-0", {"kind": "paid", "order": 7})]


@pytest.mark.parametrize("customer", [(503, 410)], indirect=True)
def test_a_customer_is_told_again_until_nobody_wants_to_know(
    shop: ModuleType, client: QueueClient, customer: Customer
) -> None:
    """At the time that the customer asked for; what is gone is a letter."""
    shop.deliver.send(customer.url, {"kind": "paid"})
    shop.app.run_until_idle(60.0, ["webhooks"])
    (letter,) = client.dead_letters("webhooks.dead")
    assert (letter.reason, letter.attempts) == (Reason.REJECTED, 2)
    assert len(customer.told) == 2


def test_a_mail_that_is_none_is_a_letter(shop: ModuleType, client: QueueClient, mails: list[EmailMessage]) -> None:
    """It says what is wrong, and nothing was tried."""
    client.declare("emails")
    client.publish("emails", b'{"task": "shop.tasks.send_mail", "payload": {"mail": {"to": "ann", "order": "x"}}}')
    shop.app.run_until_idle(60.0, ["emails"])
    (letter,) = client.dead_letters("emails.dead")
    assert letter.reason is Reason.MALFORMED
    assert "payload.mail.order: Input should be a valid integer" in letter.exception_message
    assert mails == []


def test_what_is_no_picture_is_a_letter(shop: ModuleType, client: QueueClient, tmp_path: Path) -> None:
    """A call tells the same at once, as in a test of the function alone."""
    text = tmp_path / "text.ppm"
    text.write_bytes(b"P3 1 1 255 0 0 0")
    with pytest.raises(Exception, match="no picture that can be read"):
        shop.make_thumbnail(text, text)
    shop.make_thumbnail.send(text, text)
    wait_for(lambda: client.stats("thumbnails").ready == 1, 30.0)
    shop.app.run_until_idle(90.0, ["thumbnails"])
    (letter,) = client.dead_letters("thumbnails.dead")
    assert (letter.reason, letter.attempts) == (Reason.REJECTED, 1)
