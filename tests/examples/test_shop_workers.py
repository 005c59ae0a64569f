"""The shop as programs: one sends, a worker works, on real brokers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType

import pytest

from qbridge_core import QueueStats, Reason
from support.brokers import Broker
from support.customers import Customer, MailServer
from support.wait import wait_for


@pytest.fixture(params=["redis", "rabbitmq"])
def url(request: pytest.FixtureRequest) -> str:
    """A broker on which nobody else has queues that are called as the shop's are."""
    if request.param == "redis":
        return str(request.getfixturevalue("private_database")(13))
    node: Broker = request.getfixturevalue("private_rabbitmq")
    return node.url


def test_a_worker_does_what_the_shop_sends(
    shop: ModuleType,
    url: str,
    program: Callable[..., None],
    mail_server: MailServer,
    customer: Callable[..., Customer],
    picture: Path,
) -> None:
    """One program does mails, thumbnails and webhooks; the webhook that failed is a letter, and then replayed."""
    mail = shop.OrderMail(
        to="ann@example.org", order=7, total=Decimal("9.90"), paid_at=datetime(2026, 1, 2, tzinfo=UTC)
    )
    good, gone = customer(503, 200), customer(410, 200)
    with shop.app.open(url) as client:
        shop.paid(mail, [picture], [good.url, gone.url])
        program("-m", "qbridge_core", "worker", "shop.tasks:app", "--log-level", "INFO", QBRIDGE_URL=url)
        (letter,) = wait_for(lambda: client.dead_letters("webhooks.dead"), 60.0)
        assert (letter.reason, letter.task_id, letter.attempts) == (Reason.FAILED, "hook-7-1", 1)
        assert letter.exception_type.endswith("NotWantedError")
        assert client.replay("webhooks.dead") == 1
        wait_for(lambda: len(gone.told) == 2, 30.0)
        wait_for(lambda: [each["Subject"] for each in mail_server.mails] == ["Order 7"], 30.0)
        wait_for(picture.with_suffix(".small.ppm").exists, 60.0)
        wait_for(lambda: len(good.told) == 2, 30.0)
        for queue in ("emails", "thumbnails", "webhooks"):
            wait_for(lambda: client.count(queue) == QueueStats(0, 0, 0), 30.0)  # noqa: B023 - it is called at once
    assert {key for key, _ in good.told} == {"hook-7-0"}
