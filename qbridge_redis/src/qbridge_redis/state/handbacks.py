"""Deliveries that were given back without a copy, and what their entries cannot say.

Such an entry stays pending, and the name of the consumer that seems to hold it says how many attempts have failed, how
many processes have died, and, when it is to be dead-lettered, why. The process that gave it back remembers the rest.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

from qbridge_core.backend import (
    ATTEMPTS,
    CRASHES,
    REASON,
    REPLAYS,
    TASK_ID,
    Delivery,
    Failure,
    Noted,
    Reason,
    meta_int,
    meta_text,
    worker_identity,
)

HANDBACK: Final = "qbridge:returned"
"""How the names of consumers begin that stand for nobody: what they hold was given back."""
LONG_AGO: Final = 10 * 365 * 86_400_000
"""Milliseconds; an entry that nobody has renewed for so long is taken over at once."""
_REMEMBERED: Final = 1_000
_FORGOTTEN: Final = "the broker refused this dead letter at first; the process that knew more has ended"


def handback_consumer(meta: Mapping[str, str | int]) -> str:
    """The name for an entry of which this should be written beside it."""
    counts = f"{meta_int(meta, ATTEMPTS)}:{meta_int(meta, CRASHES)}"
    return f"{HANDBACK}:{counts}:{meta_text(meta, REASON)}".rstrip(":").removesuffix(":0:0")


class Handbacks:
    """What this process has given back of one queue without a copy. Thread-safe."""

    def __init__(self) -> None:
        self._noted: OrderedDict[bytes, Noted] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def has_any(self) -> bool:
        """Whether something is remembered."""
        return bool(self._noted)

    def remember(self, entry_id: bytes, noted: Noted) -> None:
        """Keep what such a name has no room for."""
        with self._lock:
            self._noted[entry_id] = noted
            if len(self._noted) > _REMEMBERED:
                self._noted.popitem(last=False)

    def recall(self, delivery: Delivery, entry_id: bytes, former: bytes) -> None:
        """Let a delivery that was taken over show what was counted when it was given back, if it was."""
        with self._lock:
            noted = self._noted.pop(entry_id, None)
        name = former.decode("utf-8", "replace")
        if not name.startswith(f"{HANDBACK}:"):
            return
        if noted is not None:
            delivery.note(noted)
            return
        attempts, crashes, reason = (name.removeprefix(f"{HANDBACK}:").split(":") + [""] * 2)[:3]
        counts: dict[str, Any] = {ATTEMPTS: attempts, CRASHES: crashes}
        delivery.attempts = max(delivery.attempts, meta_int(counts, ATTEMPTS))
        delivery.crashes = max(delivery.crashes, meta_int(counts, CRASHES))
        if reason in list(Reason):
            delivery.note(Noted(_forgotten(delivery, Reason(reason)), is_final=True))


def _forgotten(delivery: Delivery, reason: Reason) -> Failure:
    now = time.time()
    return Failure(
        reason=reason,
        attempts=delivery.attempts,
        crashes=delivery.crashes,
        exception_message=_FORGOTTEN,
        first_failed_at=delivery.first_failed_at or now,
        last_failed_at=now,
        source_queue=delivery.queue,
        task_id=meta_text(delivery.meta, TASK_ID) or delivery.message_id or "",
        worker=worker_identity(),
        replays=meta_int(delivery.meta, REPLAYS),
        history=delivery.history,
    )
