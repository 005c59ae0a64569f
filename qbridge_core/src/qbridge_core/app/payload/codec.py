"""How the value of one parameter is written into a payload and read from it; its annotation decides."""

from __future__ import annotations

from typing import Protocol

from qbridge_core.app.payload.plain import plain_codec
from qbridge_core.contract.registry import how_to_install
from qbridge_core.errors import ConfigurationError


class Codec(Protocol):
    """Both ways of a value. Thread-safe."""

    def encode(self, value: object) -> object:
        """The value in types that JSON has.

        Raises:
            MisfitError: it is not of its type.
        """
        ...

    def decode(self, value: object) -> object:
        """The reverse.

        Raises:
            MisfitError: it cannot be made into its type.
        """
        ...


def codec_for(annotation: object) -> Codec:
    """The codec for an annotation: types that JSON has need nothing else, all others need pydantic.

    Raises:
        ConfigurationError: there is none; the text ends a sentence.
    """
    plain = plain_codec(annotation)
    if plain is not None:
        return plain
    try:
        from qbridge_core.app.payload.models import ModelCodec
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.partition(".")[0] != "pydantic":
            raise
        raise ConfigurationError(
            f"needs pydantic, which is not installed: {how_to_install('pydantic')}. Without it there are str, int, "
            "float, bool, None, list, dict, Literal and Any, and unions of them"
        ) from exc
    return ModelCodec(annotation)
