"""Bodies as kombu writes them for Celery: JSON, with marks for values that JSON does not have, and maybe compressed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import datetime, time
from importlib import import_module
from typing import Any, Final

from qbridge_core.contract.envelope import MalformedTaskError, UnsupportedTaskError, refuse_long

_TYPE, _VALUE = "__type__", "__value__"
_MARK: Final = _TYPE.encode()
_PICKLES: Final = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _uuid(parts: Any) -> object:
    from uuid import UUID  # here, for most messages have none

    return UUID(hex=parts["hex"])


def _decimal(text: Any) -> object:
    from decimal import Decimal  # likewise

    return Decimal(text)


_VALUES: Final[Mapping[str, Callable[[Any], object]]] = {
    "datetime": datetime.fromisoformat,
    "date": lambda text: datetime.fromisoformat(text).date(),
    "time": time.fromisoformat,
    "decimal": _decimal,
    "uuid": _uuid,
    "bytes": lambda text: text.encode(),
    "base64": base64.b64decode,
}
_DECOMPRESSORS: Final = {
    "application/x-gzip": ("zlib", "decompressobj"),
    "application/x-bz2": ("bz2", "BZ2Decompressor"),
    "application/x-lzma": ("lzma", "LZMADecompressor"),
}


class _UnknownTypeError(Exception):
    """A value of a type that a program has added to kombu's JSON."""


def read_body(body: bytes, compression: object, max_bytes: int, task_id: str | None = None) -> Any:
    """The value of a body.

    Args:
        body: the bytes.
        compression: what the header of that name says; ``None`` when there is none.
        max_bytes: the longest body, before and after it is unpacked.
        task_id: for errors.

    Raises:
        MalformedTaskError: it is too long, or no JSON.
        UnsupportedTaskError: it is written or compressed in another way.
    """
    refuse_long(body, max_bytes, task_id)
    if compression is not None:
        body = _unpacked(body, compression, max_bytes, task_id)
    if body.startswith(_PICKLES):
        raise UnsupportedTaskError(
            "the body is a pickle, which is never read here: let producers write JSON (task_serializer)", task_id
        )
    try:
        return json.loads(body.decode(), object_hook=_value if _MARK in body else None)
    except UnicodeDecodeError as exc:
        raise MalformedTaskError(f"the body is not UTF-8: {exc.reason} at byte {exc.start}", task_id) from exc
    except RecursionError as exc:
        raise MalformedTaskError("the body is nested too deep", task_id) from exc
    except _UnknownTypeError as exc:
        raise UnsupportedTaskError(
            f"an argument has a type of a program's own in kombu's JSON: {exc}", task_id
        ) from exc
    except ValueError as exc:
        raise MalformedTaskError(f"the body is not JSON: {exc}", task_id) from exc


def _value(found: dict[str, Any]) -> object:
    if found.keys() != {_TYPE, _VALUE}:
        return found
    kind = found[_TYPE]
    read = _VALUES.get(kind) if isinstance(kind, str) else None
    if read is None:
        raise _UnknownTypeError(repr(kind))
    try:
        return read(found[_VALUE])
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"it has no value of the type {kind} where it says so") from exc


def _unpacked(body: bytes, compression: object, max_bytes: int, task_id: str | None) -> bytes:
    """The bytes that were compressed; never many more than ``max_bytes`` are made of a few."""
    if not isinstance(compression, str) or compression not in _DECOMPRESSORS:
        raise UnsupportedTaskError(
            f"the body is compressed as {compression!r}; there are {', '.join(_DECOMPRESSORS)}", task_id
        )
    module, decompressor = _DECOMPRESSORS[compression]
    try:
        unpacked: bytes = getattr(import_module(module), decompressor)().decompress(body, max_bytes + 1)
    except ImportError as exc:  # a Python that was built without it
        raise UnsupportedTaskError(f"the body is compressed, and this Python has no {module}", task_id) from exc
    except Exception as exc:  # each module has errors of its own
        raise MalformedTaskError(f"the body cannot be unpacked ({compression}): {exc}", task_id) from exc
    if len(unpacked) > max_bytes:
        raise MalformedTaskError(f"the body has more than {max_bytes} bytes, unpacked; that is the limit", task_id)
    return unpacked
