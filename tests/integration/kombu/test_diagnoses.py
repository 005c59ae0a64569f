"""What ``diagnose`` finds through kombu: each finding is caused for real."""

from __future__ import annotations

import json

from integration.kombu.conftest import MakeClient
from qbridge_core import FindingStatus, QueueUse
from support.findings import bad, only, unchecked
from support.sqs import SQSBroker

PROBLEM, WARNING = FindingStatus.PROBLEM, FindingStatus.WARNING


def test_rabbitmq_through_kombu_has_no_finding(make_client: MakeClient, amqp: str, queue: str) -> None:
    """It keeps what a dead worker held; what kombu cannot tell is not checked."""
    client = make_client(amqp)
    client.declare(queue, f"{queue}-dead")
    found = client.diagnose([QueueUse(queue, f"{queue}-dead", task_timeout=10.0)])
    assert bad(found) == []
    assert unchecked(found) == {"permissions"}


def test_a_transport_that_loses_messages_is_found(make_client: MakeClient, folder_url: str, queue: str) -> None:
    """And a queue that is not there, which is not made."""
    client = make_client(folder_url)
    client.declare(queue, f"{queue}-dead")
    only(client.diagnose([QueueUse(queue, f"{queue}-dead")]), "loss", WARNING, "is lost when it is killed")
    for _ in range(2):
        found = [each for each in bad(client.diagnose([f"{queue}-2"])) if each.check != "loss"]
        assert [each.check for each in found] == ["queue", "dead-letter queue"]
        assert {each.mend for each in found} == {f"qbridge declare {queue}-2 --dead {queue}-2.dead"}


def test_what_costs_messages_at_sqs_is_found(make_client: MakeClient, sqs_server: SQSBroker, queue: str) -> None:
    """A short retention, a redrive policy, a task that may take longer than the service lends a message."""
    client = make_client(sqs_server.url)
    client.declare(queue, f"{queue}-dead")
    use = QueueUse(queue, f"{queue}-dead", task_timeout=10.0)
    assert bad(client.diagnose([use])) == []
    url = sqs_server.queue_url(queue)
    sqs_server.request("SetQueueAttributes", QueueUrl=url, Attributes={"MessageRetentionPeriod": "86400"})
    found = only(client.diagnose([use]), "queue", WARNING, "forgets messages after 1.0 days")
    assert found.mend.endswith(f"--queue-url {url} --attributes MessageRetentionPeriod=1209600")
    sqs_server.request("SetQueueAttributes", QueueUrl=url, Attributes={"MessageRetentionPeriod": "1209600"})
    arn = f"arn:aws:sqs:us-east-1:123456789012:{queue}-dead"
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    sqs_server.request("SetQueueAttributes", QueueUrl=url, Attributes={"RedrivePolicy": policy})
    only(client.diagnose([use]), "queue", WARNING, "redrive policy")
    found = next(each for each in client.diagnose([QueueUse(queue, task_timeout=46_800.0)]) if each.check == "lease")
    assert found.status is PROBLEM
    assert "43200 s at most" in found.text
