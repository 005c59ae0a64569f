"""Many queues at one master of a cluster, which has no read that waits for queues of several hash slots.

They are asked in turn, all in one write, and the more there are, the less often.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from redis.exceptions import ResponseError

from qbridge_core.backend import TransientError, monotonic
from qbridge_redis.connection.errors import is_missing_group, is_redirect, is_transient, refused
from qbridge_redis.consume.reading import read_command
from qbridge_redis.consume.shared import SharedReader
from qbridge_redis.consume.subscription import PATIENCE, Subscription
from qbridge_redis.consume.together import SharedQueues
from qbridge_redis.state.context import ServerContext

_SHORTEST: Final = 0.05
_EACH: Final = 0.001  # seconds for each read of a client: so many in a second, however many queues it has

_Groups = Sequence[Sequence[Subscription]]


class PollingReader(SharedReader):
    """Reads the idle queues at one master. Where they have one hash slot, with a read that waits.

    Args:
        server: the master.
        queues: those that are read together, here and elsewhere.
        masters: how many masters the client uses.
    """

    def __init__(self, server: ServerContext, queues: SharedQueues, masters: Callable[[], int]) -> None:
        super().__init__(server, queues)
        self._masters = masters
        self._new: set[Subscription] = set()
        self._poll_at = 0.0
        self._waits = True

    def expect(self, new: Sequence[Subscription]) -> None:
        """See ``SharedReader.expect``. Those are asked at once, for something may have come meanwhile."""
        super().expect(new)
        with self._lock:
            self._new.update(new)

    def _rest(self, current: Sequence[Subscription], *, uncollected: bool) -> None:
        if not current or self._waits:
            super()._rest(current, uncollected=uncollected)
            return
        seconds = max(0.0, self._poll_at - monotonic())
        self.pulse.turn(seconds + self._server.options.patience)
        self._wanted.wait(min(seconds, PATIENCE) if uncollected else seconds)

    def _read(self, ready: Sequence[Subscription]) -> None:
        with self._lock:
            new, self._new = self._new, set()
        groups = _by_slot(ready)
        self._waits = len(groups) == 1
        if self._waits:
            self._wait_for(ready)
            return
        now = monotonic()
        if now >= self._poll_at:
            self._poll_at = now + max(_SHORTEST, _EACH * len(groups) * self._masters())
            self._poll(groups)
        elif soon := [one for one in ready if one in new]:
            self._poll(_by_slot(soon))

    def _wait_for(self, ready: Sequence[Subscription]) -> None:
        """Read queues of one slot as on a single server. Where that is on its way elsewhere, the read ends at once."""
        for one in ready:
            one.trouble = None
        super()._read(ready)
        if any(one.trouble is not None for one in ready):
            self._server.route.watch()
            self._wanted.wait(_SHORTEST)

    def _poll(self, groups: _Groups) -> None:
        commands = [read_command(group[0].context, [one.stream for one in group], _count(group), 0) for group in groups]
        try:
            replies = self._connection.call_many(commands)
        except BaseException:
            for group in groups:
                for one in group:
                    one.takeover.reply_lost()
            raise
        refusals = [each for each in zip(groups, replies, strict=True) if isinstance(each[1], ResponseError)]
        answered = [each for each in zip(groups, replies, strict=True) if not isinstance(each[1], ResponseError)]
        for group, _ in answered:
            for one in group:
                one.trouble = None
        # What has come first: whatever goes wrong with the others, it is not to be lost.
        self._hand_out([row for group, rows in answered if len(group) == 1 for row in rows or ()], math.inf)
        self._hand_out([row for group, rows in answered if len(group) > 1 for row in rows or ()], 1)
        for group, reply in refusals:
            self._refused(group, reply)
        if any(is_redirect(reply) for _, reply in refusals):
            self._server.route.watch()

    def _refused(self, ready: Sequence[Subscription], reply: ResponseError) -> None:
        """What is elsewhere is read there as soon as it is known where; what cannot be read is its own trouble."""
        if is_redirect(reply):
            for one in ready:
                one.trouble = refused(reply, f"read the queue {one.queue!r}")
        elif is_missing_group(reply) or is_transient(reply):
            super()._refused(ready, reply)
        elif len(ready) > 1:  # the reply does not say which queue it is about
            self._poll([[one] for one in ready])
        else:
            with self._apart(ready[0]):
                raise refused(reply, f"read the queue {ready[0].queue!r}") from reply

    @contextlib.contextmanager
    def _apart(self, subscription: Subscription) -> Iterator[None]:
        with super()._apart(subscription):
            try:
                yield
            except TransientError as exc:
                if not is_redirect(exc.__cause__):
                    raise
                subscription.trouble = exc


def _by_slot(subscriptions: Sequence[Subscription]) -> list[list[Subscription]]:
    return [list(group) for _, group in groupby(sorted(subscriptions, key=_slot), _slot)]


_slot: Final = attrgetter("slot")


def _count(group: Sequence[Subscription]) -> Any:
    """How many entries to ask for: of one stream as many as are wanted; the number is for each of several."""
    return group[0].count if len(group) == 1 else 1
