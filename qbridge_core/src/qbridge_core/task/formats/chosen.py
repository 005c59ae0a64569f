"""The formats of one queue: which of them reads a message."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence

from qbridge_core.contract.envelope import MalformedTaskError, Task
from qbridge_core.contract.message import Delivery
from qbridge_core.errors import ConfigurationError
from qbridge_core.task.formats.base import Format
from qbridge_core.task.formats.envelope import EnvelopeFormat


class Formats:
    """Formats, at least one. Thread-safe.

    Attributes:
        first: what is written.
    """

    def __init__(self, formats: Sequence[Format]) -> None:
        self.first = formats[0]
        self._in_turn = tuple(sorted(formats, key=lambda each: each.breadth))

    def feeders_of(self, queue: str) -> list[str]:
        """Other queues, in which messages for this one wait."""
        return [feeder for each in self._in_turn if (feeder := each.feeder_of(queue)) is not None]

    def read(self, delivery: Delivery, max_bytes: int) -> Task:
        """Read a message by the first format that accepts it.

        Raises:
            MalformedTaskError: none does, or that one cannot.
            UnsupportedTaskError: it asks for what there is not here.
        """
        for each in self._in_turn:
            if each.accepts(delivery):
                return each.read(delivery, max_bytes)
        names = ", ".join(each.name for each in self._in_turn)
        raise MalformedTaskError(f"it is of none of the formats of this queue: {names}")


def formats_of(given: object) -> Formats | None:
    """What a caller gave as formats of a queue; ``None`` for the envelope alone, which is read and written without.

    Args:
        given: a list of formats, or of their classes; ``None`` for the envelope.

    Raises:
        ConfigurationError: it is something else.
    """
    if given is None:
        return None
    if isinstance(given, str | Format) or inspect.isclass(given) or not isinstance(given, Iterable):
        raise ConfigurationError(
            f"formats must be a list, as in formats=[CeleryFormat(), EnvelopeFormat()], not {given!r}"
        )
    formats = [_format(each) for each in given]
    if not formats:
        raise ConfigurationError("formats must have one at least: the first is written, and all are accepted")
    return None if [type(each) for each in formats] == [EnvelopeFormat] else Formats(formats)


def _format(given: object) -> Format:
    if inspect.isclass(given) and issubclass(given, Format):
        try:
            return given()
        except TypeError as exc:
            raise ConfigurationError(f"{given.__name__} needs arguments: give an object of it to formats") from exc
    if not isinstance(given, Format):
        raise ConfigurationError(f"formats must hold formats, such as EnvelopeFormat(), not {given!r}")
    return given
