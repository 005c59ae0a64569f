"""Makes what JSON has of a payload that holds other things, by a function of the producer's."""

from __future__ import annotations

import inspect
import json
import reprlib
from collections.abc import Callable
from typing import Any

from qbridge_core.contract.envelope import MAX_DEPTH
from qbridge_core.errors import ConfigurationError, PayloadError

Encoder = Callable[[Any], object]
"""Called with a value that JSON does not have; returns one that it has, or in which less is that it does not have."""


def check_encoder(encoder: object) -> Encoder | None:
    """Return what a caller gave as an encoder: a function, or a ``json.JSONEncoder``, whose ``default`` is taken.

    Raises:
        ConfigurationError: it is something else.
    """
    if inspect.isclass(encoder) and issubclass(encoder, json.JSONEncoder):
        encoder = encoder()
    if isinstance(encoder, json.JSONEncoder):
        return encoder.default
    if encoder is not None and not callable(encoder):
        raise ConfigurationError(
            f"encoder must be a function, which makes what JSON has of a value that it does not have, not {encoder!r}"
        )
    return encoder


def encoded(payload: object, encoder: Encoder, task_id: str) -> object:
    """The payload, with what the encoder has made in the place of each value that JSON does not have.

    Raises:
        PayloadError: the encoder has raised, or has made nothing of a value; the text says where that is.
    """
    try:
        return _encoded(payload, encoder, "payload", 0)
    except RecursionError as exc:
        raise PayloadError(f"the payload of task {task_id!r} is nested too deep, or holds itself") from exc
    except _FailedError as exc:
        raise PayloadError(f"the payload of task {task_id!r} cannot be written as JSON: {exc}") from exc.__cause__


class _FailedError(Exception):
    """The encoder has not made anything of a value."""


def _encoded(value: object, encoder: Encoder, path: str, depth: int) -> object:
    if value is None or isinstance(value, str | int | float):
        return value
    if depth > MAX_DEPTH:
        raise RecursionError
    if isinstance(value, dict):
        document = {}
        for key, item in value.items():  # no comprehension: each level takes one frame
            document[key] = _encoded(item, encoder, f"{path}[{reprlib.repr(key)}]", depth + 1)
        return document
    if isinstance(value, list | tuple):
        items = []
        for number, item in enumerate(value):
            items.append(_encoded(item, encoder, f"{path}[{number}]", depth + 1))
        return items
    try:
        made = encoder(value)
    except Exception as exc:
        raise _FailedError(f"at {path} the encoder raised {type(exc).__name__} ({exc})") from exc
    if made is value:
        raise _FailedError(f"at {path} the encoder returned the {type(value).__name__} that it was called with")
    return _encoded(made, encoder, path, depth + 1)
