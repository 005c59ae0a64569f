"""A connection that is lost in the middle of a call: what was confirmed is there, and nothing is lost."""

from __future__ import annotations

import time

import pytest

from qbridge_core import BrokerURL, Message, TransientError
from qbridge_core.testing.base import Backend, Call, MakeClient, a_failure, succeeds
from qbridge_core.testing.link import Link

_SHORT = 1.0
_VICTIMS = 6
_LARGE = b"x" * 20_000


class InterruptionTests(Backend):
    """Each byte may be the last one."""

    @pytest.mark.parametrize("where", ["half", "last", "for a moment"])
    def test_g1_what_publish_many_confirmed_is_there_whatever_happens_to_the_connection(
        self, where: str, link: Link, make_client: MakeClient, make_linked_client: MakeClient, queue: str
    ) -> None:
        """The connection is lost in the middle: the call raises, or all of its messages are there."""
        client, direct = make_linked_client(), make_client()
        messages = [Message(b"%d" % number + _LARGE) for number in range(40)]
        began = link.sent
        client.publish_many(queue, messages)
        size = link.sent - began
        assert direct.purge(queue) == len(messages)
        lose = link.drop_after if where == "for a moment" else link.cut_after
        lose(size - len(_LARGE) // 2 if where == "last" else size // 2)
        call = Call(lambda: client.publish_many(queue, messages, timeout=_SHORT))
        assert call.ended(self.outage_timeout), "publish_many hangs when the connection is lost"
        if where != "for a moment" or call.error is not None:
            assert isinstance(call.error, TransientError), f"a part was sent, and publish_many ends with {call.error!r}"
        else:
            found = {delivery.body for delivery in self.receive_all(direct, queue, len(messages))}
            assert found == {message.body for message in messages}, "publish_many confirms what is not there"
        link.restore()
        self.eventually(lambda: succeeds(lambda: client.publish(queue, b"x")), self.outage_timeout)

    @pytest.mark.parametrize("outcome", ["dead letter", "retry", "hand-back", "replay"])
    def test_g2_whenever_a_client_dies_its_message_is_somewhere(
        self, outcome: str, broker_url: str, make_client: MakeClient, queue: str, dead: str
    ) -> None:
        """A client ends at many points while it settles: a crash can double the message and never lose it."""
        direct = make_client()
        if not direct.capabilities.redelivers:
            pytest.skip("what a client holds is lost when it dies, as it says")
        victims: list[Victim] = []
        try:
            for number in range(_VICTIMS + 1):
                victims.append(Victim(self, broker_url, queue, dead, number, outcome))
            size = victims[0].settle()
            for number, victim in enumerate(victims[1:], 1):
                victim.settle(cut_after=number * size // _VICTIMS)
            missing = {victim.body for victim in victims}
            deadline = time.monotonic() + self.redelivery_timeout

            def all_found() -> bool:
                for name in (queue, *(victim.dead for victim in victims)):
                    for delivery in direct.receive(name, 10, 0.05):
                        missing.discard(delivery.body)
                        direct.ack(delivery)
                return not missing

            self.eventually(all_found, max(self.wait, deadline - time.monotonic()), "a message is lost")
        finally:
            for victim in victims:
                victim.link.restore()
            self.disconnect_in_time(*(victim.client for victim in victims))
            for victim in victims:
                victim.link.close()


class Victim:
    """A client with a connection of its own that ends in the middle of a call."""

    def __init__(self, suite: Backend, broker_url: str, queue: str, dead: str, number: int, outcome: str) -> None:
        url = BrokerURL.parse(broker_url)
        if not suite.proxied or not url.host or url.port is None or len(url.hosts) != 1:
            pytest.skip("the URL does not name one host and port, so there is no connection to break")
        self.link = Link(url.host, url.port)
        self.client = suite.create_hasty_client(self.link.through(broker_url))
        self._queue = queue
        self.body = b"%d" % number + _LARGE
        self.dead = f"{dead}-{number}"
        self.client.declare(queue, self.dead)
        self.client.publish(queue, self.body)
        self._delivery = suite.receive_one(self.client, queue)
        self._suite = suite
        self._outcome = outcome
        if outcome == "replay":
            self._reject(requeue=False)
            assert self.client.flush()

    def settle(self, cut_after: int | None = None) -> int:
        """Settle the message; the link is cut after so many bytes. Return how many it took."""
        began = self.link.sent
        if cut_after is not None:
            self.link.cut_after(max(1, cut_after))
        call = Call(self._settle)
        call.ended(self._suite.outage_timeout if cut_after is None else _SHORT)
        self.link.cut()
        return self.link.sent - began

    def _settle(self) -> None:
        if self._outcome == "replay":
            self.client.replay(self.dead)
        elif self._outcome == "hand-back":
            self.client.reject(self._delivery, requeue=True)
        else:
            self._reject(requeue=self._outcome == "retry")

    def _reject(self, *, requeue: bool) -> None:
        self.client.reject(self._delivery, requeue, failure=a_failure(self._queue))
