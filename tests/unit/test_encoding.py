"""``send(encoder=…)``: payloads with values that JSON does not have."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from qbridge_core import ConfigurationError, Outcome, PayloadError, TaskManager
from qbridge_memory import MemoryClient


@dataclass
class Order:
    """What a shop sends."""

    number: int
    due: date


class Mail(BaseModel):
    """The same with pydantic."""

    to: str
    at: datetime


class DateEncoder(json.JSONEncoder):
    """As Django has one."""

    def default(self, o: Any) -> Any:
        """Dates are texts."""
        return o.isoformat() if isinstance(o, date) else super().default(o)


def encoder(value: object) -> object:
    """Of an order an object with a date in it, of a date a text."""
    if isinstance(value, Order):
        return asdict(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"what is a {type(value).__name__}?")


def payloads(client: MemoryClient) -> list[Any]:
    """What handlers get."""
    seen: list[Any] = []
    TaskManager(client, seen.append, "q", "d", max_workers=1).run_until_idle()
    return seen


def test_an_encoder_makes_what_json_has(client: MemoryClient) -> None:
    """Of values at any depth, also of those that it returns itself; what JSON has it does not see."""
    order = Order(7, date(2026, 1, 2))
    client.send(
        "q", {"orders": [order], "at": date(2026, 1, 3), "plain": [1, 2.5, None, True, "x", (1,)]}, encoder=encoder
    )
    client.send_many("q", [order, 5], encoder=encoder)
    seven = {"number": 7, "due": "2026-01-02"}
    whole = {"orders": [seven], "at": "2026-01-03", "plain": [1, 2.5, None, True, "x", [1]]}
    assert payloads(client) == [whole, seven, 5]


@pytest.mark.parametrize("given", [DateEncoder, DateEncoder()])
def test_an_encoder_of_the_json_module_will_do(client: MemoryClient, given: Any) -> None:
    """Its class, or an object of it."""
    client.send("q", {"on": date(2026, 1, 2)}, encoder=given)
    assert payloads(client) == [{"on": "2026-01-02"}]


def test_pydantic_is_an_encoder(client: MemoryClient) -> None:
    """It knows models, decimals, sets."""
    mail = Mail(to="ann@example.org", at=datetime(2026, 1, 2, tzinfo=UTC))
    sent = {"mail": mail, "price": Decimal("1.50"), "tags": {1}}
    client.send("q", sent, encoder=to_jsonable_python)
    told = {"to": "ann@example.org", "at": "2026-01-02T00:00:00Z"}
    assert payloads(client) == [{"mail": told, "price": "1.50", "tags": [1]}]


@pytest.mark.parametrize(
    ("payload", "given", "text"),
    [
        (
            {"a": [{"when": object()}]},
            encoder,
            r"at payload\['a'\]\[0\]\['when'\] the encoder raised TypeError \(what is",
        ),
        (
            {"a": [1, object()]},
            lambda each: each,
            r"at payload\['a'\]\[1\] the encoder returned the object that it was",
        ),
        ({"a": object()}, lambda _: {1: "x"}, r"has the key 1 \(int\) in payload\['a'\]"),
        ({"a": object()}, lambda _: float("nan"), r"at payload\['a'\]"),
        (object(), lambda _: [object()], "nested too deep, or holds itself"),
        (
            {"a": date(2026, 1, 2)},
            None,
            r"date is not JSON serializable, at payload\['a'\]\); .*, or give send an encoder",
        ),
    ],
)
def test_an_error_names_the_key(client: MemoryClient, payload: object, given: Any, text: str) -> None:
    """Where an encoder makes nothing of a value, or what JSON does not have, nothing is sent."""
    with pytest.raises(PayloadError, match=text):
        client.send("q", payload, encoder=given)
    with pytest.raises(PayloadError, match=f"payload 1 of send_many, of which nothing was sent: .*{text}"):
        client.send_many("q", [5, payload], encoder=given)
    assert client.stats("q").ready == 0


def test_a_wrong_encoder_is_refused(client: MemoryClient) -> None:
    """At once."""
    for send in (lambda: client.send("q", 1, encoder="str"), lambda: client.send_many("q", [], encoder=5)):  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="encoder must be a function"):
            send()


def test_what_is_sent_can_expire(client: MemoryClient) -> None:
    """Seconds from now on, or a time."""
    past = datetime.now(UTC) - timedelta(seconds=5)
    client.send("q", 1, expires=past)
    client.send("q", 2, expires=600.0, delay=0.1)
    client.send_many("q", [3, 4], expires=past)
    client.send_many("q", [5], expires=600)
    report = TaskManager(client, str, "q", "d").run_until_idle()
    assert report.counts == {Outcome.EXPIRED: 3, Outcome.SUCCEEDED: 2}
    with pytest.raises(ConfigurationError, match="may run in 60 s and expires before that"):
        client.send("q", 1, expires=30, delay=60)
