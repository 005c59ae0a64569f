"""What ``QueueClient.queues`` returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qbridge_core.contract.names import default_dead_letter_queue, suspects_queue


def list_queues(names: Iterable[str], dead_letter_queues: Mapping[str, str]) -> dict[str, str | None]:
    """Sort names of queues, leave out side queues, and find the dead-letter queue of each.

    Args:
        names: of the queues that there are.
        dead_letter_queues: those that are known, by the names of their queues. For another queue it is
            ``<queue>.dead``, where that is among the names.
    """
    found = set(names)
    side = {suspects_queue(name) for name in found}
    listed: dict[str, str | None] = {}
    for name in sorted(found - side):
        usual = default_dead_letter_queue(name)
        listed[name] = dead_letter_queues.get(name) or (usual if usual in found else None)
    return listed
