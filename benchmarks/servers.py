"""The private brokers: one of each for the whole run, with the same settings for everybody."""

from __future__ import annotations

import os
import subprocess
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from support.brokers import Broker, RabbitMQBroker, RedisBroker, find_program
from support.sqs import SQSBroker

_DELETE_ALL = '[rabbit_amqqueue:delete(Q, false, false, <<"bench">>) || Q <- rabbit_amqqueue:list()], ok.'


class BenchRabbitMQ(RabbitMQBroker):
    """RabbitMQ as it comes, with as many schedulers as there are cores (the tests' servers have one)."""

    settings: ClassVar[str] = "stock settings"

    def _environment(self) -> dict[str, str]:
        arguments = "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"
        environment = super()._environment()
        return environment | {arguments: environment[arguments].replace("+S 1:1 ", "")}

    def clear(self) -> None:
        """Delete all queues."""
        self.rabbitmqctl("eval", _DELETE_ALL)

    def version(self) -> str:
        """What is measured."""
        return self.rabbitmqctl("version").strip()


class BenchRedis(RedisBroker):
    """Redis with an append-only file that is synced each second, as its documentation advises."""

    settings: ClassVar[str] = "appendonly yes, appendfsync everysec"

    def _server_command(self) -> list[str]:
        return [*super()._server_command(), "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0"]

    def clear(self) -> None:
        """Delete all keys."""
        self.cli("FLUSHALL", "SYNC", timeout=60)

    def version(self) -> str:
        """What is measured."""
        program = find_program("redis-server", "valkey-server")
        output = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True).stdout
        return output.split("v=")[-1].split()[0]


class BenchSQS(SQSBroker):
    """moto's server, as the tests use it: queues are in memory, and requests are answered one after the other."""

    settings: ClassVar[str] = "a stub in one process of Python"

    def clear(self) -> None:
        """Delete all queues."""
        for url in self.request("ListQueues").get("QueueUrls", []):
            self.request("DeleteQueue", QueueUrl=url)

    def version(self) -> str:
        """What is measured."""
        return f"moto {metadata.version('moto')}"

    def processor_time(self) -> float:
        """Seconds that its process has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class NoServer:
    """What `memory://` needs."""

    settings: ClassVar[str] = "in the worker's process"
    url = "memory://bench"

    def clear(self) -> None:
        """Nothing outlives a process."""

    def version(self) -> str:
        """No server, no version."""
        return "-"


Server = BenchRabbitMQ | BenchRedis | BenchSQS | NoServer
KINDS: dict[str, type[BenchRabbitMQ] | type[BenchRedis] | type[BenchSQS]] = {
    "rabbitmq": BenchRabbitMQ,
    "redis": BenchRedis,
    "sqs": BenchSQS,
}


def start(kind: str, directory: Path) -> Server:
    """Start the server of a kind.

    Raises:
        BrokerError: it is not installed or does not start.
    """
    if kind not in KINDS:
        return NoServer()
    server = KINDS[kind](directory / kind)
    server.start()
    return server


def stop(server: Server) -> None:
    """End it and delete its files."""
    if isinstance(server, Broker):
        server.close()
