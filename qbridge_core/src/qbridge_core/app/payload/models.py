"""Everything that pydantic knows: models, dataclasses, ``TypedDict``, ``datetime``, ``UUID``, ``Decimal``, enums, …"""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from qbridge_core.app.payload.misfit import MisfitError, kind_of
from qbridge_core.errors import ConfigurationError


class ModelCodec:
    """A ``TypeAdapter``, which is built once.

    Raises:
        ConfigurationError: pydantic cannot make one of the annotation.
    """

    def __init__(self, annotation: Any) -> None:
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(annotation)
        except (PydanticUserError, NameError, TypeError) as exc:
            reason = str(exc).partition("\n")[0]
            raise ConfigurationError(f"cannot be read and written by pydantic: {reason}") from exc

    def encode(self, value: object) -> object:
        """What JSON has of it, by the names that reading expects."""
        valid = self.decode(value)
        try:
            return self._adapter.dump_python(valid, mode="json", by_alias=True)
        except PydanticSerializationError as exc:
            raise MisfitError(str(exc)) from exc

    def decode(self, value: object) -> object:
        """The object that it stands for."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as exc:
            first, *others = exc.errors(include_url=False, include_context=False)
            more = f" (and {len(others)} more)" if others else ""
            there = "" if first["type"] == "missing" else f", there is {kind_of(first['input'])}"
            raise MisfitError(f"{first['msg']}{there}{more}", first["loc"]) from None
