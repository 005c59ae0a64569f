"""Types that JSON has: they are checked strictly, and nothing is converted but a whole number where a float may be."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Union, get_args, get_origin

from qbridge_core.app.payload.misfit import MisfitError, kind_of

Check = Callable[[object], object]
"""Returns the value as the function gets it, or raises MisfitError."""


@dataclass(frozen=True, slots=True)
class PlainCodec:
    """Checks a value in both directions."""

    encode: Check
    decode: Check


def plain_codec(annotation: object) -> PlainCodec | None:
    """The codec for what JSON has; ``None`` for everything else."""
    check = _check(annotation)
    return None if check is None else PlainCodec(check, check)


def _check(annotation: object) -> Check | None:
    for kind, check in _SIMPLE:  # by identity: what is in an annotation need not be hashable
        if annotation is kind:
            return check
    origin = get_origin(annotation) or annotation
    return next((make(get_args(annotation)) for kind, make in _COMPOSED if origin is kind), None)


def _anything(value: object) -> object:
    return value


def _null(value: object) -> object:
    if value is not None:
        raise MisfitError(f"expected null, there is {kind_of(value)}")
    return value


def _number(value: object) -> object:
    if type(value) is int:
        try:
            return float(value)
        except OverflowError as exc:
            raise MisfitError("expected a number that a float can hold, there is a larger one") from exc
    if not isinstance(value, float):
        raise MisfitError(f"expected a number, there is {kind_of(value)}")
    return value


def _scalar(kind: type, name: str) -> Check:
    def check(value: object) -> object:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise MisfitError(f"expected {name}, there is {kind_of(value)}")
        return value

    return check


def _literal(choices: Sequence[object]) -> Check | None:
    if not all(type(each) in (str, int, bool, types.NoneType) for each in choices):
        return None
    allowed = {(type(each), each) for each in choices}

    def check(value: object) -> object:
        if type(value) not in (str, int, bool, types.NoneType) or (type(value), value) not in allowed:
            raise MisfitError(f"expected {' or '.join(map(repr, choices))}, there is {kind_of(value)}")
        return value

    return check


def _union(annotations: Sequence[object]) -> Check | None:
    checks = [check for check in map(_check, annotations) if check is not None]
    if len(checks) != len(annotations):
        return None

    def check(value: object) -> object:
        misfits: list[MisfitError] = []
        for each in checks:
            try:
                return each(value)
            except MisfitError as exc:
                misfits.append(exc)
        # The one that got deepest into it says most.
        deepest = max(misfits, key=lambda misfit: len(misfit.path))
        if deepest.path:
            raise deepest
        wanted = [misfit.text.removeprefix("expected ").partition(", there is")[0] for misfit in misfits]
        raise MisfitError(f"expected {' or '.join(wanted)}, there is {kind_of(value)}")

    return check


def _list(arguments: Sequence[object]) -> Check | None:
    item = _check(arguments[0]) if arguments else _anything
    if item is None:
        return None
    inner = item

    def check(value: object) -> object:
        if not isinstance(value, list):
            raise MisfitError(f"expected an array, there is {kind_of(value)}")
        return value if inner is _anything else [_within(place, inner, each) for place, each in enumerate(value)]

    return check


def _dict(arguments: Sequence[object]) -> Check | None:
    if arguments and arguments[0] is not str:
        return None
    item = _check(arguments[1]) if arguments else _anything
    if item is None:
        return None
    inner = item

    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise MisfitError(f"expected an object, there is {kind_of(value)}")
        return value if inner is _anything else {key: _within(key, inner, each) for key, each in value.items()}

    return check


def _within(step: str | int, check: Check, value: object) -> object:
    try:
        return check(value)
    except MisfitError as exc:
        raise exc.within(step) from None


_SIMPLE: Final[Sequence[tuple[object, Check]]] = (
    (Any, _anything),
    (object, _anything),
    (inspect.Parameter.empty, _anything),
    (None, _null),
    (types.NoneType, _null),
    (float, _number),
    (str, _scalar(str, "a string")),
    (int, _scalar(int, "a whole number")),
    (bool, _scalar(bool, "true or false")),
)
_COMPOSED: Final[Sequence[tuple[object, Callable[[Sequence[object]], Check | None]]]] = (
    (Union, _union),
    (types.UnionType, _union),
    (Literal, _literal),
    (list, _list),
    (dict, _dict),
)
