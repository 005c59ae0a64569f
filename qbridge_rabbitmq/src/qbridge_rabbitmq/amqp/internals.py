"""What this package uses of pika that pika does not promise, in one place.

``connection`` overrides or calls the methods of the connection and the channel for speed, and to end a connection whose
peer is silent; it looks at the sockets of one that is being made, to close them in a forked child, where ``io_thread``
closes the descriptors of the loop. The rest is used where it is there: the transport's ``_sock``, ``_state`` and
``_MAX_RECV_BYTES``, the ``_cancel`` of a task, and the channel's ``_consumers``.

All of these are in pika 1.3.2 to 1.4. A version without them would not fail here, but much later and strangely: what
overrides nothing is never called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pika
from pika.adapters.select_connection import EPollPoller, IOLoop
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from pika.channel import Channel

NEEDED: Final[Mapping[type, tuple[str, ...]]] = {
    pika.SelectConnection: (
        "_adapter_emit_data",
        "_init_connection_state",
        "_on_data_available",
        "_output_marshaled_frames",
        "_process_frame",
        "_read_frame",
        "_terminate_stream",
    ),
    SelectorIOServicesAdapter: ("connect_socket", "create_streaming_connection", "getaddrinfo"),
    Channel: ("_rpc",),
    IOLoop: ("_get_poller",),
    EPollPoller: ("_get_interrupt_pair",),
}


def require() -> None:
    """Refuse a version of pika without what is needed.

    Raises:
        ImportError: something is missing; the text says what, and which versions have it.
    """
    missing = [f"{kind.__name__}.{name}" for kind, names in NEEDED.items() for name in names if not hasattr(kind, name)]
    if missing:
        raise ImportError(
            f"qbridge-rabbitmq does not work with pika {getattr(pika, '__version__', '')}, which lacks "
            f"{', '.join(missing)}: install pika>=1.3.2,<1.5, or a newer qbridge-rabbitmq"
        )
