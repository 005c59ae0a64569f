"""A private server for Amazon SQS: moto's, as a process of its own."""

from __future__ import annotations

import importlib.util
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from support.brokers import Broker

_SERVER = Path(__file__).with_name("sqs_server.py")
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class SQSBroker(Broker):
    """It keeps queues in memory: a restart forgets them all."""

    boot_timeout = 60.0

    @classmethod
    def available(cls) -> bool:
        """Whether moto is installed."""
        return importlib.util.find_spec("moto") is not None

    @property
    def url(self) -> str:
        """The URL for ``connect``; it stays the same over restarts."""
        return f"kombu+sqs://key:secret@{self.host}:{self.port}"

    @property
    def endpoint(self) -> str:
        """The URL for other clients."""
        return f"http://{self.host}:{self.port}"

    def is_ready(self) -> bool:
        """Whether it answers a request."""
        try:
            self.request("ListQueues")
        except OSError:
            return False
        return True

    def request(self, action: str, **arguments: Any) -> dict[str, Any]:
        """Make a request without any client library."""
        signature = (
            "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0"
        )
        request = urllib.request.Request(
            self.endpoint,
            json.dumps(arguments).encode(),
            {
                "Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": f"AmazonSQS.{action}",
                "Authorization": signature,
            },
        )
        with _OPENER.open(request, timeout=5) as reply:
            answer: dict[str, Any] = json.loads(reply.read() or b"{}")
            return answer

    def queue_url(self, name: str) -> str:
        """What the service calls a queue."""
        return str(self.request("GetQueueUrl", QueueName=name)["QueueUrl"])

    def contents(self) -> dict[str, int]:
        """All queues with all their messages."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = {}
        for url in self.request("ListQueues").get("QueueUrls", []):
            found = self.request("GetQueueAttributes", QueueUrl=url, AttributeNames=names)["Attributes"]
            counts[url.rpartition("/")[2]] = sum(int(found[name]) for name in names)
        return counts

    def _server_command(self) -> list[str]:
        return [sys.executable, str(_SERVER), str(self.port)]
