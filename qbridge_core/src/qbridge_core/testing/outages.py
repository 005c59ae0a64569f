"""A broker that is away or silent: every call ends in bounded time with an error of QBridge's, and nothing is lost."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

import pytest

from qbridge_core import (
    BrokerUnavailableError,
    BrokerURL,
    Delivery,
    DeliveryLostError,
    Finding,
    FindingStatus,
    Message,
    QBridgeError,
    QueueClient,
    TransientError,
)
from qbridge_core.testing.base import Backend, Call, MakeClient, a_failure, is_empty, succeeds
from qbridge_core.testing.connection import is_hidden
from qbridge_core.testing.link import Link

_SHORT = 1.0
_AT_ONCE = 0.5
_VICTIMS = 6


class OutageTests(Backend):
    """What callers see between the loss of a connection and its return."""

    @pytest.mark.parametrize("kind", ["freeze", "cut"], ids=["silent", "away"])
    def test_g1_without_a_broker_each_call_ends_with_a_typed_error(
        self,
        kind: str,
        link: Link,
        broker_url: str,
        make_client: MakeClient,
        make_linked_client: Callable[..., QueueClient],
        queue: str,
        dead: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Nothing hangs, claims a success or leaks a foreign error or a password; settlements have one outcome."""
        client, leaving, direct = make_linked_client(leases=False), make_linked_client(), make_client()
        unhurried = self.create_client(link.through(broker_url))
        for each in (client, direct):
            each.declare(queue, dead)
        client.send_many(queue, range(3))
        done, rejected, retried = self.receive_all(client, queue, 3)
        leaving.declare(f"{queue}-2")
        leaving.publish(f"{queue}-2", b"left")
        self.receive_one(leaving, f"{queue}-2")
        caplog.set_level(logging.INFO)
        getattr(link, kind)()

        must_fail: dict[str, Callable[[], object]] = {
            "connect": lambda: self.create_hasty_client(link.through(broker_url)).disconnect(),
            "publish": lambda: unhurried.publish(queue, b"p0", timeout=_SHORT),
            "publish without a timeout": lambda: client.publish(queue, b"p1"),
            "publish_many": lambda: unhurried.publish_many(queue, [Message(b"p")] * 20, timeout=_SHORT),
            "receive": lambda: client.receive(queue, 1, _SHORT),
            "stats": lambda: client.stats(queue),
            "count": lambda: client.count(queue),
            "describe": lambda: client.describe(queue),
            "purge": lambda: client.purge(f"{queue}-missing"),  # a purge that is late must find nothing
            "replay": lambda: client.replay(f"{queue}-missing"),
        }
        must_fail |= _claimed_calls(client, queue, dead)
        may_wait: dict[str, Callable[[], object]] = {
            "ack": lambda: client.ack(done),
            "reject": lambda: client.reject(rejected, requeue=False, failure=a_failure(queue)),
            "retry": lambda: client.reject(retried, requeue=True, failure=a_failure(queue)),
            "flush": lambda: client.flush(_SHORT),
            # Nobody may have found out within its timeout that the broker is silent.
            "receive_any": lambda: client.receive_any({f"{queue}-2": 1}, _SHORT),
            "declare": lambda: client.declare(f"{queue}-3"),
            "disconnect": leaving.disconnect,
        }
        if client.capabilities.diagnoses:
            may_wait["diagnose"] = lambda: self._check_diagnosis(client.diagnose([queue]), broker_url)
        calls = {name: Call(function) for name, function in {**must_fail, **may_wait}.items()}
        deadline = time.monotonic() + self.outage_timeout
        hanging = [name for name, call in calls.items() if not call.ended(max(0.0, deadline - time.monotonic()))]
        assert not hanging, f"without a broker these take more than {self.outage_timeout:g} s: {hanging}"
        if "diagnose" in calls:
            assert calls.pop("diagnose").error is None, "diagnose raises what it should say, or does not say it"
        for name, call in calls.items():
            self._check_error(name, call.error, may_succeed=name in may_wait, broker_url=broker_url)
        assert client.connected, "a client whose connection is lost is still connected: it tries again"
        for name in ("publish", "publish_many"):
            assert calls[name].seconds < 4 * _SHORT, f"{name} does not keep to its timeout"
        assert calls["receive"].seconds > 0.9 * _SHORT, "receive does not wait for its timeout, so its caller does not"
        if calls["ack"].error is None and client.capabilities.redelivers:  # else there is nothing to send
            flushing = Call(lambda: client.flush(_SHORT))
            assert flushing.ended(self.outage_timeout), "flush does not keep to its timeout"
            assert flushing.error or not flushing.result(), "flush says that all is sent, and there is no broker"
        blocked = Call(lambda: unhurried.publish(queue, b"p2", timeout=10 * self.outage_timeout))
        self.disconnect_in_time(unhurried, timeout=self.outage_timeout)
        assert blocked.ended(self.wait), "a publish of another thread still blocks after disconnect"
        link.restore()
        if calls["declare"].error is None:
            self.eventually(lambda: succeeds(lambda: client.publish(f"{queue}-3", b"x")), self.outage_timeout)
        self._settle_all(client, queue, {done: calls["ack"], rejected: calls["reject"], retried: calls["retry"]})
        once = not calls["reject"].error and not calls["retry"].error
        refused = {
            body
            for body, name in ((b"p0", "publish"), (b"p1", "publish without a timeout"))
            if isinstance(calls[name].error, BrokerUnavailableError)
        }
        self._check_outcomes(direct, queue, dead, rejected, retried, most=1 if once else 2, refused=refused)
        self._check_password(caplog.text, broker_url)
        if client.capabilities.redelivers:
            left = self.receive_one(direct, f"{queue}-2", self.redelivery_timeout + self.outage_timeout)
            assert left.body == b"left"
        self.eventually(lambda: succeeds(lambda: client.publish(queue, b"again")), self.outage_timeout)

    def _check_error(self, name: str, error: BaseException | None, *, may_succeed: bool, broker_url: str) -> None:
        if error is None:
            assert may_succeed, f"{name} succeeds without a broker"
            return
        assert isinstance(error, QBridgeError), f"{name} leaks {error!r}"
        assert isinstance(error, TransientError), f"{name} raises {error!r}, though a later call may succeed"
        assert name != "disconnect", f"disconnect raises {error!r}"
        if name == "connect":
            assert error.__cause__ is not None, "connect keeps the driver's error from the caller"
        self._check_password("".join(traceback.format_exception(error)), broker_url)

    def _check_diagnosis(self, found: Sequence[Finding], broker_url: str) -> None:
        assert any(each.status is FindingStatus.PROBLEM for each in found), f"an outage is no problem: {found}"
        self._check_password(repr(found), broker_url)

    @staticmethod
    def _check_password(text: str, broker_url: str) -> None:
        login = BrokerURL.parse(broker_url)
        assert not login.password or is_hidden(login.password, text, login), "a password shows"

    def _settle_all(self, client: QueueClient, queue: str, settlements: dict[Delivery, Call]) -> None:
        """Repeat what was not done, as a worker does; what was lost is settled when it is delivered again."""
        for delivery, call in settlements.items():
            error = call.error

            def settle(delivery: Delivery = delivery) -> None:
                body = delivery.body
                if b'"payload":0' in body:
                    client.ack(delivery)
                else:
                    client.reject(delivery, b'"payload":2' in body, failure=a_failure(queue))

            if isinstance(error, DeliveryLostError):
                continue
            if error is not None:
                with suppress(DeliveryLostError):
                    self.eventually(lambda settle=settle: succeeds(settle), self.outage_timeout, "cannot settle")  # type: ignore[misc]
        self.eventually(lambda: succeeds(client.flush), self.outage_timeout, "acknowledgements are not sent")

    def _check_outcomes(
        self,
        direct: QueueClient,
        queue: str,
        dead: str,
        rejected: Delivery,
        retried: Delivery,
        most: int,
        refused: Collection[bytes],
    ) -> None:
        """One letter, one retry (two at ``most``, when nobody knows whether the first got through).

        What was lost instead comes again, and is settled now. What was ``refused`` does not come.
        """
        outcomes: list[tuple[bytes, int]] = []
        patience = time.monotonic() + self.redelivery_timeout

        def settled() -> bool:
            for delivery in direct.receive(queue, 10, 0.1):
                assert delivery.body not in refused, "publish said that the broker does not have a message that it has"
                if delivery.body.startswith(b"p"):
                    direct.ack(delivery)  # published, though nobody could confirm it
                elif delivery.body == rejected.body and delivery.attempts == 0:
                    direct.reject(delivery, requeue=False, failure=a_failure(queue))
                elif delivery.body == retried.body and delivery.attempts == 0:
                    direct.reject(delivery, requeue=True, failure=a_failure(queue))
                else:
                    outcomes.append((delivery.body, delivery.attempts))
                    direct.ack(delivery)
            wanted = (retried.body, 1) in outcomes and direct.stats(dead).ready >= 1
            return direct.flush() and wanted and is_empty(direct, queue)

        seconds = max(self.wait, patience - time.monotonic(), self.counting_time(direct))
        self.eventually(settled, seconds, "a settled message is not settled")
        assert 1 <= [body for body, _ in outcomes].count(retried.body) <= most, outcomes
        assert not [body for body, _ in outcomes if body == rejected.body], "a dead letter was delivered again"
        letters = direct.receive(dead, 10, self.wait)
        assert {letter.body for letter in letters} == {rejected.body}
        assert 1 <= len(letters) <= most

    @pytest.mark.parametrize("kind", ["freeze", "cut"], ids=["silent", "away"])
    def test_an_instant_ack_waits_for_no_broker(
        self, kind: str, link: Link, make_linked_client: Callable[..., QueueClient], queue: str, dead: str
    ) -> None:
        """Where that is claimed, an event loop may acknowledge at any time: when a loss begins, and long after that.

        Where it is not, some ``ack`` waits for a broker that is silent: else claim it. Is there a reason to wait that
        this does not show, skip the test.
        """
        client = make_linked_client(leases=False)
        claimed = client.capabilities.instant_ack
        if not claimed and kind == "cut":
            return
        client.declare(queue, dead)
        client.send_many(queue, range(_VICTIMS))
        deliveries = self.receive_all(client, queue, _VICTIMS)
        getattr(link, kind)()
        ended = True
        for delivery in deliveries:
            call = Call(lambda delivery=delivery: client.ack(delivery))  # type: ignore[misc]
            ended = call.ended(_AT_ONCE)
            if not ended:
                break
            assert call.error is None or isinstance(call.error, QBridgeError), f"ack leaks {call.error!r}"
            time.sleep(_SHORT / _VICTIMS)  # the client finds out meanwhile
        assert ended or not claimed, f"ack takes more than {_AT_ONCE:g} s, and is said never to wait"
        assert claimed or not ended, "ack never waits for its broker: claim instant_ack"
        link.restore()


def _claimed_calls(client: QueueClient, queue: str, dead: str) -> dict[str, Callable[[], object]]:
    """Calls that ask the broker, of those that a client has only where it claims them; late ones must do nothing."""
    missing, can = f"{queue}-missing", client.capabilities
    calls: dict[str, tuple[bool, Callable[[], object]]] = {
        "dead_letters": (can.browse, lambda: client.dead_letters(dead)),
        "delete_letters": (can.letters, lambda: client.delete_letters(missing, letters=["1-1"])),
        "paused": (can.pause, lambda: client.paused([queue])),
        "delayed": (can.browse_delayed, lambda: client.delayed(queue)),
    }
    return {name: call for name, (claimed, call) in calls.items() if claimed}
