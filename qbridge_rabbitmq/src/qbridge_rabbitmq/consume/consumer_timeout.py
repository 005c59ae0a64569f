"""The time after which the broker takes an unacknowledged message away, held against that of a task."""

from __future__ import annotations

import math
from typing import Final

from qbridge_core.backend import ConfigurationError, logger
from qbridge_rabbitmq.connection.options import Options
from qbridge_rabbitmq.consume.prefetch import MOST

_log: Final = logger("qbridge.rabbitmq")


def most_in_time(options: Options, seconds: float, workers: int) -> int:
    """How many messages may wait here for so many workers, whose tasks may each take so long.

    The time counts from the delivery, so a message that waits here behind long tasks must not wait for too many.

    Raises:
        ConfigurationError: not even one task has the time.
    """
    limit = options.consumer_timeout
    if seconds > limit:
        raise ConfigurationError(
            f"task_timeout is {seconds:g} s, but after {limit:g} s the broker takes a message from a living worker "
            "and gives it to another. Lower task_timeout, or set consumer_timeout (in ms) in the server's "
            "rabbitmq.conf to more, and the option consumer_timeout (in seconds) of this client to the same"
        )
    turns = math.ceil((options.prefetch or 0) / workers)
    if seconds * turns > limit:
        _log.warning(
            "with prefetch=%d a message may wait here for %d runs of up to %g s, and after %g s the broker gives "
            "it to another worker; leave prefetch out, or lower it, if tasks may take long",
            options.prefetch, turns - 1, seconds, limit,
        )  # fmt: skip
    return min(MOST, workers * int(limit / seconds))
