"""Typed payloads: the annotations of a task decide what is sent, and what its function gets."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import AliasChoices, BaseModel, ConfigDict, EmailStr, Field, Json, SecretStr, computed_field
from typing_extensions import TypedDict

from qbridge_core import App, ConfigurationError, PayloadError, Reason
from qbridge_core.app.payload.codec import codec_for
from qbridge_core.app.payload.misfit import MisfitError
from support.apps import letters, raw


class Item(BaseModel):
    """A part of a model."""

    sku: str
    count: int = Field(gt=0)


class Order(BaseModel):
    """A model with an alias."""

    model_config = ConfigDict(populate_by_name=True)

    number: int = Field(alias="orderNumber")
    items: list[Item]
    paid_at: datetime


@dataclass
class Point:
    """A dataclass."""

    x: float
    y: float


class Address(TypedDict):
    """A typed dictionary."""

    city: str


class Colour(Enum):
    """An enumeration."""

    RED = "red"


ORDER = Order(orderNumber=7, items=[Item(sku="a", count=1)], paid_at=datetime(2026, 1, 2, tzinfo=UTC))


@pytest.mark.parametrize(
    ("annotation", "value", "written"),
    [
        (Order, ORDER, {"orderNumber": 7, "items": [{"sku": "a", "count": 1}], "paid_at": "2026-01-02T00:00:00Z"}),
        (Point, Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
        (Address, {"city": "Bern"}, {"city": "Bern"}),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (UUID, UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (Decimal, Decimal("1.10"), "1.10"),
        (Colour, Colour.RED, "red"),
        (Point | None, None, None),
        (Order | Point, Point(1.0, 2.0), {"x": 1.0, "y": 2.0}),
        (list[Item], [Item(sku="a", count=2)], [{"sku": "a", "count": 2}]),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (set[int], {1}, [1]),
        (bytes, b"abc", "abc"),
        (Annotated[int, Field(gt=0)], 5, 5),
        (str, "a", "a"),
        (int | None, None, None),
        (float, 1, 1.0),
        (Any, {"a": [1]}, {"a": [1]}),
        (dict[str, list[int]], {"a": [1]}, {"a": [1]}),
        (Literal["a", 1], 1, 1),
        (list, [1, "a"], [1, "a"]),
    ],
)
def test_a_value_is_written_as_json_and_comes_back(annotation: Any, value: Any, written: Any) -> None:
    """Both ways by what the annotation says."""
    codec = codec_for(annotation)
    assert codec.encode(value) == written
    assert codec.decode(written) == value
    assert type(codec.decode(written)) in (type(value), float)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (str, 5, "payload: expected a string, there is a number"),
        (int, True, "payload: expected a whole number, there is a boolean"),
        (int, 1.5, "payload: expected a whole number, there is a number"),
        (float, "1", "payload: expected a number, there is a string of 1 characters"),
        (bool, 1, "payload: expected true or false, there is a number"),
        (None, 1, "payload: expected null, there is a number"),
        (int | str | None, [], "payload: expected a whole number or a string or null, there is an array"),
        (list[int], [1, "x"], "payload[1]: expected a whole number, there is a string of 1 characters"),
        (list[int], (1,), "payload: expected an array, there is a tuple"),
        (dict[str, list[int]], {"a": [None]}, "payload.a[0]: expected a whole number, there is null"),
        (list[int] | None, [None], "payload[0]: expected a whole number, there is null"),
        (dict[str, int], 5, "payload: expected an object, there is a number"),
        (Literal["a", "b"], "c", "payload: expected 'a' or 'b', there is a string of 1 characters"),
        (Literal[1], True, "payload: expected 1, there is a boolean"),
        (Literal["a"], ["a"], "payload: expected 'a', there is an array"),
        (Point, {"x": 1}, "payload.y: Field required"),
        (Item, {"sku": "a", "count": 0}, "payload.count: Input should be greater than 0, there is a number"),
        (Item, {"sku": 5, "count": 0}, "payload.sku: Input should be a valid string, there is a number (and 1 more)"),
        (list[Item], [{"sku": "a"}], "payload[0].count: Field required"),
        (UUID, "secret", "payload: Input should be a valid UUID"),
    ],
)
def test_what_does_not_fit_is_told_by_its_path_and_kind(annotation: Any, value: Any, text: str) -> None:
    """Never by its value, which would reach a log."""
    with pytest.raises(MisfitError) as caught:
        codec_for(annotation).decode(value)
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)


def test_a_task_gets_models_and_sends_them(app: App) -> None:
    """What was a model is one again, beside plain parameters."""
    seen: list[tuple[Order, str]] = []

    @app.task(name="ship")
    def ship(order: Order, carrier: str = "post") -> None:
        seen.append((order, carrier))

    ship.send(ORDER)
    ship.send(Order(number=8, items=[], paid_at=ORDER.paid_at), carrier="bike")
    assert app.run_until_idle().succeeded == 2
    assert sorted(seen, key=lambda each: each[1]) == [
        (Order(number=8, items=[], paid_at=ORDER.paid_at), "bike"),
        (ORDER, "post"),
    ]


def test_g13_a_payload_that_is_no_model_is_a_letter_with_its_path(app: App) -> None:
    """It has never run."""
    app.task(name="ship", max_retries=3)(ship_order)
    raw(app, task="ship", payload={"order": {"orderNumber": 7, "items": [{"sku": "a", "count": 0}], "paid_at": 0}})
    report = app.run_until_idle()
    assert letters(app) == [
        (
            Reason.MALFORMED,
            "ship: payload.order.items[0].count: Input should be greater than 0, there is a number",
        )
    ]
    assert report.succeeded == report.retried == 0


def ship_order(order: Order) -> None:
    """A task."""


def test_a_wrong_value_is_refused_by_send(app: App) -> None:
    """As a worker would refuse it; what can be made into a model is one."""
    ship: Any = app.task(name="ship")(ship_order)
    with pytest.raises(PayloadError, match=r"ship: payload\.order\.paid_at: Input should be a valid datetime"):
        ship.send({"orderNumber": 7, "items": [], "paid_at": []})
    ship.send({"orderNumber": 7, "items": [], "paid_at": "2026-01-02T00:00:00Z"})
    assert app.run_until_idle().succeeded == 1


def with_object(thing: App) -> None:
    """A type that nothing can be made into."""


def test_an_annotation_that_pydantic_does_not_know_is_refused(app: App) -> None:
    """When the task is made, by the name of the parameter."""
    with pytest.raises(ConfigurationError, match=r"t: the parameter thing: .* cannot be read and written by pydantic"):
        app.task(name="t")(with_object)


class Odd(BaseModel):
    """A model that reads other names than it writes."""

    number: int = Field(validation_alias=AliasChoices("a", "b"), serialization_alias="c")


class Renamed(BaseModel):
    """One whose field has a default when it is not found."""

    number: int = Field(3, serialization_alias="c")


class Halved(BaseModel):
    """One that does not write all that it needs."""

    number: int
    hidden: int = Field(exclude=True)


class Login(BaseModel):
    """One that hides its secret."""

    token: SecretStr


class Size(Enum):
    """An enumeration of what JSON does not have."""

    BIG = (64, 128)


@pytest.mark.parametrize(
    ("annotation", "value", "text"),
    [
        (Odd, Odd.model_validate({"a": 1}), "payload.a: what is written of it cannot be read again"),
        (list[Renamed], [Renamed(), Renamed(number=1)], "payload[1].c: it is written under a name by which it is not"),
        (Halved, Halved(number=1, hidden=2), "payload.hidden: what is written of it cannot be read again"),
        (Login, Login(token=SecretStr("abc")), "payload: there is a secret in it"),
        (Size, Size.BIG, "payload: what is written of it cannot be read again"),
        (dict[tuple[int, int], int], {(1, 2): 3}, "payload.1,2.[key]: what is written of it cannot be read again"),
        (bytes, b"\xff", "payload: it cannot be written as JSON: 'utf-8' codec can't decode byte 0xff"),
        (dict[int, Any], {1: 10**5000}, "payload: it cannot be written as JSON: Exceeds the limit"),
        (float, 10**400, "payload: expected a number that a float can hold"),
    ],
)
def test_what_a_worker_could_not_read_is_refused_where_it_is_sent(annotation: Any, value: Any, text: str) -> None:
    """It would be a dead letter, or less than was sent."""
    with pytest.raises(MisfitError) as caught:
        codec_for(annotation).encode(value)
    assert str(caught.value).startswith(text)


class Strict(BaseModel):
    """A model that takes nothing for a time but a time."""

    model_config = ConfigDict(strict=True)
    paid_at: datetime
    sizes: tuple[int, ...]
    parts: Json[list[int]]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def count(self) -> int:
        """Nothing that is read."""
        return len(self.sizes)


class Closed(Strict):
    """One that takes no other keys, either."""

    model_config = ConfigDict(strict=True, extra="forbid")


@pytest.mark.parametrize("model", [Strict, Closed])
def test_a_strict_model_comes_back_as_json_has_it(model: type[Strict]) -> None:
    """Times are texts there, tuples are arrays, and what is computed is not written."""
    value = model.model_validate({"paid_at": ORDER.paid_at, "sizes": (1, 2), "parts": "[3]"})
    codec = codec_for(model)
    assert codec.decode(json.loads(json.dumps(codec.encode(value)))) == value
    with pytest.raises(MisfitError, match=r"payload\.sizes: Input should be a valid array, there is a number"):
        codec.decode({"paid_at": "2026-01-02T00:00:00Z", "sizes": 5, "parts": "[3]"})


def test_a_type_that_lacks_a_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of the parameter, with what pydantic says."""
    monkeypatch.setitem(sys.modules, "email_validator", None)
    with pytest.raises(ConfigurationError, match="cannot be read and written by pydantic: email-validator is not"):
        codec_for(EmailStr)


WITHOUT_PYDANTIC = """
import sys
sys.modules["pydantic"] = None
from datetime import datetime
from qbridge_core import App, ConfigurationError
app = App()
@app.task(name="plain")
def plain(number: int, tags: list[str] | None = None) -> None: ...
try:
    @app.task(name="dated")
    def dated(at: datetime) -> None: ...
except ConfigurationError as exc:
    print(exc)
"""


def test_without_pydantic_what_needs_it_is_an_error_then_and_there() -> None:
    """Types that JSON has work; another one says what to install."""
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYDANTIC], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.stderr == ""
    assert result.stdout.startswith("dated: the parameter at: datetime.datetime needs pydantic, which is not installed")
    assert '"qbridge-core[pydantic]"' in result.stdout


def test_plain_types_do_not_load_pydantic() -> None:
    """An app without models costs what it did before; nor does one that sends load what works."""
    code = """
import sys
from qbridge_core import App
app = App()
@app.task(name="plain")
def plain(number: int, tags: list[str] | None = None) -> None: ...
with app.open("memory://"):
    plain.send(5)
print({"pydantic", "asyncio", "qbridge_core.work", "qbridge_core.execute"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "set()"
