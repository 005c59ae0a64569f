"""``diagnose``: it finds, and leaves everything as it was."""

from __future__ import annotations

import time

import pytest

from qbridge_core import ConfigurationError, Finding, FindingStatus, QueueClient, QueueUse, UnroutableError
from qbridge_core.errors import UnsupportedError
from qbridge_core.testing.base import Backend, MakeClient


class DiagnosisTests(Backend):
    """The capability ``diagnoses``."""

    def test_the_broker_is_looked_at_as_far_as_that_is_claimed(
        self, make_client: MakeClient, client: QueueClient, queue: str, dead: str
    ) -> None:
        """Findings say what was looked at and what is so; nothing is raised, made, taken, counted or marked for it."""
        missing = f"{queue}-missing"
        looker = make_client()
        if not client.capabilities.diagnoses:
            with pytest.raises(UnsupportedError):
                looker.diagnose([queue])
            return
        client.publish(queue, b"held")
        held = self.receive_one(client, queue)
        client.publish(queue, b"waits")
        self.await_counts(client, queue, ready=1, in_flight=1)
        consumers = looker.describe(queue).consumers
        began = time.monotonic()
        found = looker.diagnose([QueueUse(queue, dead, task_timeout=5.0, workers=2), missing])
        assert time.monotonic() - began < self.outage_timeout
        assert found, "nothing is said"
        assert all(isinstance(each, Finding) and each.check and each.text for each in found), found
        assert any(each.status is FindingStatus.OK for each in found), f"nothing was looked at: {found}"
        about = [each for each in found if each.queue == missing and each.status in _BAD]
        assert about, f"a queue that does not exist is no finding: {found}"
        assert not [each for each in found if each.status is FindingStatus.PROBLEM and each.queue == queue], found
        assert looker.describe(queue).consumers == consumers, "who looks is no consumer"
        assert looker.diagnose([]), "nothing is said of the broker itself"
        with pytest.raises(UnroutableError):
            client.publish(missing, b"x")
        again = self.receive_one(client, queue)
        assert (again.body, again.redelivered, again.suspected) == (b"waits", False, False)
        for delivery in (held, again):
            client.ack(delivery)
        client.flush(self.wait)
        self.assert_empty(client, queue, soon=True)

    def test_a_look_at_what_is_no_queue_is_refused(self, client: QueueClient, queue: str) -> None:
        """Names that no queue can have, one name in place of several, and a time that is none."""
        if not client.capabilities.diagnoses:
            pytest.skip("diagnoses is not claimed")
        for queues, timeout in (
            (["a\nb"], 5.0), (queue, 5.0), ([7], 5.0), ([QueueUse(queue, "")], 5.0), ([queue], 0.0), ([queue], "soon"),
        ):  # fmt: skip
            with pytest.raises(ConfigurationError):
                client.diagnose(queues, timeout=timeout)  # type: ignore[arg-type]


_BAD = (FindingStatus.WARNING, FindingStatus.PROBLEM)
