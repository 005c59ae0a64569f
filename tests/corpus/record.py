"""Records what a version of QBridge leaves in the brokers: ``python -m corpus.record DIRECTORY`` (README.md).

It runs in an environment of that version, starts private servers, lets clients and worker processes of that version do
all that leaves something behind, and writes down everything that the servers hold then.
"""

from __future__ import annotations

import datetime
import decimal
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pika
import redis

from corpus import rabbitmq_state, redis_state, texts
from corpus.states import BROKEN_BODIES, DELAYS, FAMILY, HEADERS, PAYLOADS
from qbridge_core import Message, QueueClient, connect
from support.brokers import Broker, RabbitMQBroker, RedisBroker, start_new
from support.versions import amqp_version, redis_version
from support.wait import wait_for


class Recording:
    """One server of its own, and what this version does there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client: QueueClient = connect(url)

    def queue(self, state: str) -> str:
        """Declare the queue of a state with its dead-letter queue."""
        name = FAMILY + state
        self.client.declare(name, f"{name}.dead")
        return name

    def work(self, state: str, *, ends: int = 0, dead: str = "", **options: object) -> None:
        """Run a worker process until it ends by itself."""
        name = FAMILY + state
        dead = FAMILY + dead if dead else f"{name}.dead"
        done = subprocess.run(
            [sys.executable, "-m", "corpus.worker", self.url, name, dead, json.dumps(options)],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == ends, f"{state}: {done.returncode}\n{done.stderr}"

    def publish_ready(self) -> None:
        """Messages that nobody has looked at."""
        queue = self.queue("ready")
        for name, payload in PAYLOADS.items():
            self.client.send(queue, payload, task_id=name)
        self.client.send(queue, {"do": "succeed"}, task_id="with headers", headers=HEADERS)
        self.client.send_many(queue, [{"number": number} for number in range(3)])
        body = b'{"payload":{"from":"publish"},"more":"fields"}'
        self.client.publish(queue, body)
        self.client.publish(queue, body, headers=HEADERS, message_id="only a message id")
        self.client.publish_many(queue, [Message(body, HEADERS, "of publish_many")])

    def retry(self) -> None:
        """Messages that have failed once and wait for their second attempt, those of other programs too."""
        queue = self.queue("retried")
        self.client.send(queue, {"do": "fail"}, task_id="retried")
        self.client.send(queue, {"do": "fail"}, task_id="retried with headers", headers=HEADERS)
        self.publish_foreign(queue, b'{"payload":{"do":"fail","customer":"foreign"}}')
        self.work("retried", max_workers=1, stop_at=3)

    def hand_back(self) -> None:
        """Messages that a stopping worker had fetched, and one that a client gave back."""
        queue = self.queue("handed-back")
        for number in range(4):
            self.client.send(queue, {"do": "succeed"}, task_id=f"handed back {number}", headers=HEADERS)
        self.work("handed-back", max_workers=1, stop_at=1)
        (one,) = self.client.receive(queue, 1, 5.0)
        self.client.reject(one, requeue=True)

    def dead_letter(self) -> None:
        """A dead letter of each reason."""
        queue, lethal = self.queue("letters"), self.queue("lethal")
        self.client.send(queue, {"do": "fail"}, task_id="failed", headers=HEADERS)
        self.client.send(queue, {"do": "hang"}, task_id="timed out")
        self.client.send(queue, {"do": "reject"}, task_id="rejected")
        for number, body in enumerate(BROKEN_BODIES):
            self.client.publish(queue, body, message_id=f"malformed {number}")
        self.publish_foreign(queue, b'{"payload":{"do":"fail"},"task_id":"foreign"}')
        self.work("letters", task_timeout=0.3, max_workers=1, until_idle=True)
        self.client.send(lethal, {"do": "die"}, task_id="crashed", headers=HEADERS)
        for _ in range(3):
            self.work("lethal", dead="letters.dead", ends=-9)
        self.work("lethal", dead="letters.dead", until_idle=True)
        (left,) = self.client.receive(queue, 1, 0.5) or [None]
        assert left is None, "a letter is missing"

    def replay(self) -> None:
        """A message that was a dead letter, and was sent back."""
        queue = self.queue("replayed")
        self.client.send(queue, {"do": "reject"}, task_id="replayed", headers=HEADERS)
        self.work("replayed", until_idle=True)
        assert self.client.replay(f"{queue}.dead") == 1

    def kill(self) -> None:
        """Messages whose worker died with all three; then with the first alone; then with each, and one once more."""
        for state, deaths in (("killed", 1), ("suspects", 2), ("crashing", 5)):
            queue = self.queue(state)
            for number in range(3):
                self.client.send(queue, {"do": "die"}, task_id=f"{state} {number}", headers=HEADERS)
            for death in range(deaths):
                self.work(state, ends=-9, max_workers=3, together=1 if death else 3)

    def delay(self) -> None:
        """What makes the queues in which messages wait for their time, as the longest delay does."""
        queue = self.queue("delayed")
        self.client.send(queue, {"do": "succeed"}, task_id="delayed longest", delay=max(DELAYS.values()))

    def delay_shortly(self) -> None:
        """Messages that wait for their time, a retry and one that asked for it too: to be read before it comes."""
        queue = FAMILY + "delayed"
        self.client.send(queue, {"do": "fail"}, task_id="delayed retry", headers=HEADERS)
        self.client.send(queue, {"do": "snooze", "seconds": DELAYS["soon"]}, task_id="snoozed")
        self.work("delayed", max_workers=1, stop_at=2, backoff=DELAYS["soon"])
        for name, delay in DELAYS.items():
            self.client.send(queue, {"do": "succeed"}, task_id=f"delayed {name}", delay=delay, headers=HEADERS)

    def publish_foreign(self, queue: str, body: bytes) -> None:
        """A message of a program without QBridge."""
        raise NotImplementedError

    def make_all(self) -> None:
        """Everything but what has to be read at once."""
        self.publish_ready()
        self.retry()
        self.hand_back()
        self.dead_letter()
        self.replay()
        self.kill()
        self.delay()


class RabbitMQRecording(Recording):
    """The same on RabbitMQ, with what only the broker does."""

    def publish_foreign(self, queue: str, body: bytes) -> None:
        """A message with each field and each type of header."""
        headers = {
            "number": -7, "large": 2**40, "yes": True, "nothing": None, "list": [1, "two", [3]], "bytes": b"\xff\x00",
            "table": {"inner": "Zoë"}, "price": decimal.Decimal("9.90"), "CC": ["nobody"],
            "when": datetime.datetime(2024, 2, 29, 12, 0, tzinfo=datetime.UTC),
        }  # fmt: skip
        properties = pika.BasicProperties(
            content_type="application/json", content_encoding="utf-8", headers=headers, delivery_mode=2, priority=3,
            correlation_id="c-1", reply_to="answers", expiration="86400000", timestamp=1_700_000_000, type="order",
            user_id="guest", app_id="shop",
        )  # fmt: skip
        self.publish_plain(queue, body, properties)

    def publish_plain(self, queue: str, body: bytes, properties: pika.BasicProperties) -> None:
        """Publish with pika."""
        with pika.BlockingConnection(pika.URLParameters(self.url.split("?")[0])) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish("", queue, body, properties, mandatory=True)

    def let_the_broker_reject(self) -> None:
        """Letters that the broker itself made: another consumer rejects a message, and one expires."""
        queue = self.queue("by-broker")
        self.client.send(queue, {"do": "succeed"}, task_id="rejected by a consumer", headers=HEADERS)
        with pika.BlockingConnection(pika.URLParameters(self.url.split("?")[0])) as connection:
            channel = connection.channel()
            method, _, _ = channel.basic_get(queue)
            channel.basic_reject(method.delivery_tag, requeue=False)
        expiring = pika.BasicProperties(delivery_mode=2, expiration="1", message_id="expired")
        self.publish_plain(queue, b'{"payload":{"do":"succeed"}}', expiring)
        wait_for(lambda: self.client.stats(f"{queue}.dead").ready == 2, 20, "the broker has dead-lettered both")


class RedisRecording(Recording):
    """The same on Redis."""

    def publish_foreign(self, queue: str, body: bytes) -> None:
        """An entry with fields of other names, one of them twice and one not text."""
        with redis.Redis.from_url(self.url.split("?")[0]) as server:
            server.execute_command(
                "XADD", queue, "*", "body", body, "tenant", "blue", "bytes", b"\xff\x00", "tenant", "2"
            )


def _record_rabbitmq(broker: RabbitMQBroker, queue_type: str) -> dict[str, Any]:
    recording = RabbitMQRecording(f"{broker.url}?queue_type={queue_type}")
    recording.make_all()
    recording.let_the_broker_reject()
    declared = rabbitmq_state.read_queues(broker.rabbitmqctl)
    recording.delay_shortly()
    names = [queue["name"] for queue in declared["queues"]]
    messages = {name: rabbitmq_state.read_messages(broker.url, name) for name in reversed(names)}
    recording.client.disconnect()
    held = {name: messages[name] for name in names if messages[name]}
    return {"server": amqp_version(broker.url), **declared, "messages": held}


def _record_redis(broker: RedisBroker) -> dict[str, Any]:
    recording = RedisRecording(f"{broker.url}?lease=2")
    recording.make_all()
    recording.delay_shortly()
    record = redis_state.read_keys(broker.url)
    recording.client.disconnect()
    return {"server": redis_version(broker.url), **record}


def main(directory: str) -> None:
    """Write the files of this version."""
    target = Path(directory)
    target.mkdir(parents=True, exist_ok=True)
    written = {"qbridge": version("qbridge-core"), "recorded": time.strftime("%Y-%m-%d", time.gmtime())}
    for kind in ("rabbitmq-quorum", "rabbitmq-classic", "redis"):
        with tempfile.TemporaryDirectory() as base:
            server: type[Broker] = RedisBroker if kind == "redis" else RabbitMQBroker
            broker = start_new(server, Path(base))
            try:
                if isinstance(broker, RabbitMQBroker):
                    record = _record_rabbitmq(broker, kind.removeprefix("rabbitmq-"))
                else:
                    assert isinstance(broker, RedisBroker)
                    record = _record_redis(broker)
            finally:
                broker.close()
        texts.write(target / f"{kind}.json", {**written, **record})


if __name__ == "__main__":
    main(*sys.argv[1:])
