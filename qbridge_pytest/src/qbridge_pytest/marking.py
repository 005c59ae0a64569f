"""Reads the marker ``qbridge``: at which points the workers of a test die."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pytest

from qbridge_core import ConfigurationError
from qbridge_pytest.points import ALL, Point, chosen, handlers_in

_POINTS, _HANDLER = "crash_points", "handler"
_KNOWN: Final = (_POINTS, _HANDLER)


def points_of(mark: pytest.Mark, metafunc: pytest.Metafunc) -> list[Point | None]:
    """The points of a marked test; the first is none, for a test that fails without a death says little of one.

    Raises:
        pytest.Collector.CollectError: the marker is wrong, or the test has no fixture to which it could say something.
    """
    try:
        return _points(mark, metafunc)
    except ConfigurationError as exc:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {exc}") from exc


def _points(mark: pytest.Mark, metafunc: pytest.Metafunc) -> list[Point | None]:
    if mark.args or not set(mark.kwargs) <= set(_KNOWN):
        raise ConfigurationError(f"the marker qbridge takes {' and '.join(f'{name}=…' for name in _KNOWN)}")
    if "qbridge" not in metafunc.fixturenames:
        raise ConfigurationError("the marker qbridge is for tests that use the fixture qbridge")
    return [None, *chosen(mark.kwargs.get(_POINTS, ALL), _handlers(mark.kwargs.get(_HANDLER), metafunc))]


def _handlers(given: object, metafunc: pytest.Metafunc) -> Sequence[object]:
    if given is None:
        return handlers_in(metafunc.function)
    return given if isinstance(given, list | tuple) else [given]
