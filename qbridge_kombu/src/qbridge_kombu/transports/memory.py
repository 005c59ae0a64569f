"""kombu's memory transport: queues in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qbridge_kombu.protocol.messages import Received
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.virtual import VirtualTransport, received


class MemoryTransport(VirtualTransport):
    """``kombu+memory://``: all clients of a process share its queues."""

    capabilities = replace(
        VirtualTransport.capabilities, shared=False, browse=True, ordered=True, exact_stats=True, pause=True
    )

    def connection_arguments(self) -> Mapping[str, Any]:
        """Nothing to say."""
        return {"hostname": None, "transport": "memory"}

    def peek(self, session: KombuSession, name: str, limit: int) -> list[Received]:
        """Look at the list behind a queue."""
        if not self.is_known(session, name):
            return []
        queue = session.channel._queue_for(name)
        with queue.mutex:
            payloads = [queue.queue[position] for position in range(min(limit, len(queue.queue)))]
        return [received(session.channel, payload) for payload in payloads]
