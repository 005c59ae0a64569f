"""Everything that pydantic knows: models, dataclasses, ``TypedDict``, ``datetime``, ``UUID``, ``Decimal``, enums, …"""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from qbridge_core.app.payload.misfit import MisfitError, kind_of
from qbridge_core.errors import ConfigurationError

_HIDDEN: Final = "**********"
"""What pydantic writes of a secret."""


class ModelCodec:
    """A ``TypeAdapter``, which is built once.

    Raises:
        ConfigurationError: pydantic cannot make one of the annotation.
    """

    def __init__(self, annotation: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticUserError, NameError, TypeError, ImportError) as exc:
            reason = str(exc).partition("\n")[0]
            raise ConfigurationError(f"cannot be read and written by pydantic: {reason}") from exc

    def encode(self, value: object) -> object:
        """What JSON has of it, by the names that reading expects: what a worker could not read is not sent."""
        valid = self.decode(value)
        try:
            written = self._written(valid)
            shown = str(written)
        except (PydanticSerializationError, ValueError, RecursionError) as exc:  # such as bytes that are no text
            raise MisfitError(f"it cannot be written as JSON: {exc}") from exc
        try:
            back = self.decode(written)
        except MisfitError as exc:
            text = f"what is written of it cannot be read again, as its type has it: {exc.text}"
            raise MisfitError(text, exc.path) from exc.__cause__
        if self._written(back) != written:
            self._refuse_loss(valid, back)
        if _HIDDEN in shown and not _are_equal(back, valid):
            raise MisfitError(
                "there is a secret in it, of which pydantic writes nothing but stars: let a serializer write it, or "
                "send where it is kept"
            )
        return written

    def decode(self, value: object) -> object:
        """The object that it stands for."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as exc:
            return self._decoded_strictly(value, exc)

    def _decoded_strictly(self, value: object, error: ValidationError) -> object:
        """The same as JSON has it, where a time is a text to a model that takes nothing but times in Python."""
        try:
            return self._adapter.validate_json(json.dumps(value))
        except ValidationError as exc:
            error = exc
        except (TypeError, ValueError, RecursionError):  # it is no JSON: what the first look found stands
            pass
        raise _misfit(error) from None

    def _written(self, valid: object, *, exclude_unset: bool = False) -> Any:
        return self._adapter.dump_python(
            valid, mode="json", by_alias=True, round_trip=True, exclude_unset=exclude_unset
        )

    def _refuse_loss(self, valid: object, back: object) -> None:
        """Refuse what would come back with less in it; other differences are what its type makes of JSON.

        Raises:
            MisfitError: a field has a name to be written by which it is not read.
        """
        lost = _lost(self._written(valid, exclude_unset=True), self._written(back, exclude_unset=True))
        if lost is not None:
            raise MisfitError("it is written under a name by which it is not read (serialization_alias)", lost)


def _misfit(error: ValidationError) -> MisfitError:
    first, *others = error.errors(include_url=False, include_context=False)
    more = f" (and {len(others)} more)" if others else ""
    there = "" if first["type"] == "missing" else f", there is {kind_of(first['input'])}"
    return MisfitError(f"{first['msg']}{there}{more}", first["loc"])


def _are_equal(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - a class of somebody's
        return False


def _lost(one: object, other: object) -> tuple[str | int, ...] | None:
    """Where there is a key in one that the other has not."""
    if isinstance(one, dict) and isinstance(other, dict):
        steps = list(one)
        if missing := [step for step in steps if step not in other]:
            return (missing[0],)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        steps = list(range(len(one)))
    else:
        return None
    found = ((step, _lost(one[step], other[step])) for step in steps)
    return next(((step, *path) for step, path in found if path is not None), None)
