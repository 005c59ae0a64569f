"""The model that is in the messages of the measurement "models", for every contestant the same."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel


class Item(BaseModel):
    """Some pieces of something."""

    name: str
    pieces: int
    price: Decimal


class Purchase(BaseModel):
    """An order of a shop."""

    number: int
    to: str
    paid_at: datetime
    items: list[Item]


def purchase(payload: dict[str, Any]) -> Purchase:
    """The model for a payload, of which only the number differs."""
    items = [Item(name=f"article {n}", pieces=n, price=Decimal("9.90")) for n in range(1, 4)]
    paid_at = datetime.fromisoformat("2026-01-02T12:00:00+00:00")
    return Purchase(number=payload["n"], to="ann@example.org", paid_at=paid_at, items=items)


def read(body: bytes) -> Purchase:
    """What a bare client makes of a message."""
    return Purchase.model_validate(json.loads(body)["payload"])
