"""One of the queues of a session, and what is its own: how its messages are settled, and where its suspects run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbridge_core.work.poison.rule import PoisonRule
from qbridge_core.work.poison.side_queue import SideQueue
from qbridge_core.work.settle.consequences import Consequences
from qbridge_core.work.settle.settler import Settler

if TYPE_CHECKING:
    from qbridge_core.work.poison.isolation import Isolation


@dataclass(slots=True)
class Line:
    """The parts of a session that each of its queues has.

    Attributes:
        queue: the input queue.
        settler: settles its messages.
        consequences: decides what the ends of their runs lead to.
        side_queue: where its suspects wait, if the backend can tell which those are.
        rule: decides about them.
        isolation: runs them in child processes, where that may be possible.
    """

    queue: str
    settler: Settler
    consequences: Consequences
    side_queue: SideQueue | None = None
    rule: PoisonRule | None = None
    isolation: Isolation | None = None
