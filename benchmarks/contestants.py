"""Who is measured, on which broker, with which program, in what."""

from __future__ import annotations

from dataclasses import dataclass

QBRIDGE, PEER, RAW = "qbridge", "peer", "raw"
CONSUME, PUBLISH, LATENCY, MIXED, FOOTPRINT, GROWTH = "consume", "publish", "latency", "mixed", "footprint", "growth"
_ALL = (CONSUME, PUBLISH, LATENCY, MIXED, FOOTPRINT)
_CONSUMING = (CONSUME, LATENCY, MIXED, FOOTPRINT)


@dataclass(frozen=True)
class Contestant:
    """One line of the tables.

    Attributes:
        name: as the tables show it.
        broker: "rabbitmq", "redis" or "memory".
        program: the module in benchmarks/peers.
        variant: which of its forms.
        kind: QBridge, a peer, or a bare client loop.
        measures: the measurements that it takes part in.
        environment: where its packages are.
    """

    name: str
    broker: str
    program: str
    variant: str = ""
    kind: str = PEER
    measures: tuple[str, ...] = _ALL
    environment: str = ""

    @property
    def key(self) -> str:
        """Its name on the command line."""
        return f"{self.name} {self.broker}".lower().replace(" ", "-").replace(",", "")

    def takes_part(self, measurement: str) -> bool:
        """Whether it is measured in this."""
        return measurement in self.measures


def _qbridge(name: str, broker: str, variant: str, *measures: str) -> Contestant:
    return Contestant(name, broker, "qbridge", variant, QBRIDGE, measures, "qbridge")


def _raw(name: str, broker: str, program: str, variant: str, *measures: str) -> Contestant:
    return Contestant(name, broker, program, variant, RAW, measures or (CONSUME,), "qbridge")


def _peer(name: str, broker: str, program: str, variant: str = "", *measures: str) -> Contestant:
    return Contestant(name, broker, program, variant, PEER, measures or _ALL, program)


CONTESTANTS = (
    _qbridge("QBridge", "rabbitmq", "sync", *_ALL, GROWTH),
    _qbridge("QBridge async", "rabbitmq", "async", *_CONSUMING),
    _qbridge("QBridge, classic queue", "rabbitmq", "queue_type=classic", CONSUME, PUBLISH, LATENCY),
    _qbridge("QBridge", "redis", "sync", *_ALL, GROWTH),
    _qbridge("QBridge async", "redis", "async", *_CONSUMING),
    _qbridge("QBridge", "memory", "sync", CONSUME),
    _qbridge("QBridge async", "memory", "async", CONSUME),
    _raw("raw pika, single ack", "rabbitmq", "raw_pika", "single", CONSUME, LATENCY),
    _raw("raw pika, classic queue", "rabbitmq", "raw_pika", "queue_type=classic", LATENCY),
    _raw("raw pika, multiple ack", "rabbitmq", "raw_pika", "multiple"),
    _raw("raw redis-py, COUNT 1", "redis", "raw_redis", "1"),
    _raw("raw redis-py, COUNT 10", "redis", "raw_redis", "10"),
    _raw("raw redis-py, COUNT 100", "redis", "raw_redis", "100"),
    _peer("Celery, threads", "rabbitmq", "celery", "threads"),
    _peer("Celery, solo", "rabbitmq", "celery", "solo", CONSUME, LATENCY),
    _peer("Celery, threads", "redis", "celery", "threads"),
    _peer("Dramatiq", "rabbitmq", "dramatiq"),
    _peer("Dramatiq", "redis", "dramatiq"),
    _peer("Taskiq, sync", "rabbitmq", "taskiq", "sync", *_CONSUMING),
    _peer("Taskiq, async", "rabbitmq", "taskiq", "async"),
    _peer("Taskiq, sync", "redis", "taskiq", "sync", *_CONSUMING),
    _peer("Taskiq, async", "redis", "taskiq", "async"),
    _peer("FastStream", "rabbitmq", "faststream"),
    # A message that failed stays pending on Redis: there is no retry to measure.
    _peer("FastStream", "redis", "faststream", "", CONSUME, PUBLISH, LATENCY, FOOTPRINT),
    _peer("Huey", "redis", "huey"),
    _peer("arq", "redis", "arq"),
    _peer("SAQ", "redis", "saq"),
    _peer("streaQ", "redis", "streaq"),
)
