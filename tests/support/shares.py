"""In which order tests run."""

from __future__ import annotations

from collections.abc import Set
from itertools import chain, islice

import pytest

_SLOW = "integration"
_MANAGED = "managed"
_SLOWEST = frozenset(
    {"private_rabbitmq", "private_redis", "private_broker", "private_sqs", "cluster", "nodes", _MANAGED}
)


def dealt(items: list[pytest.Item], shares: int) -> list[pytest.Item]:
    """The tests for so many processes, each of which begins with a part of this list, and then takes from the others.

    Those that wait for brokers come first in each part, so that what is left in the end is quick, and nobody waits for
    the last one. Tests of a module stay together: they share what they have set up. So do those of a node that each
    process would start for itself, and that is the dearest of all to start.
    """
    modules: dict[object, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(_MANAGED if _uses(item, {_MANAGED}) else item.path, []).append(item)
    slow = [module for module in modules.values() if _SLOW in module[0].path.parts]
    piles: list[list[pytest.Item]] = [[] for _ in range(shares)]
    for module in sorted(slow, key=_is_quicker):
        min(piles, key=len).extend(module)
    quick = chain.from_iterable(module for module in modules.values() if _SLOW not in module[0].path.parts)
    for pile in piles:
        pile.extend(islice(quick, max(0, len(items) // shares - len(pile))))
    return [*chain.from_iterable(piles), *quick]


def _is_quicker(module: list[pytest.Item]) -> bool:
    return not any(_uses(item, _SLOWEST) for item in module)


def _uses(item: pytest.Item, fixtures: Set[str]) -> bool:
    return not fixtures.isdisjoint(getattr(item, "fixturenames", ()))
