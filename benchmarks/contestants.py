"""Who is measured, on which broker, with which program, in what."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.environments import OWN, OWN_SQS

QBRIDGE, PEER, RAW = "qbridge", "peer", "raw"
CONSUME, PUBLISH, LATENCY, MIXED, FOOTPRINT, GROWTH = "consume", "publish", "latency", "mixed", "footprint", "growth"
BODIES, MODELS, COROUTINES, PROCESSES, IMPORTS = "bodies", "models", "coroutines", "processes", "imports"
SQS = "sqs"
NO_BROKER = "none"
_ALL = (CONSUME, PUBLISH, LATENCY, MIXED, FOOTPRINT)
_CONSUMING = (CONSUME, LATENCY, MIXED, FOOTPRINT)


@dataclass(frozen=True)
class Contestant:
    """One line of the tables.

    Attributes:
        name: as the tables show it.
        broker: "rabbitmq", "redis", "memory", "sqs" or "none".
        program: the module in benchmarks/peers; for the imports, what is imported.
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

    @property
    def publishes(self) -> bool:
        """Whether its publishing is measured; another form of the same worker publishes in the same way."""
        return self.variant != "solo"

    def takes_part(self, measurement: str) -> bool:
        """Whether it is measured in this."""
        return measurement in self.measures


def _qbridge(name: str, broker: str, variant: str, *measures: str) -> Contestant:
    return Contestant(name, broker, "qbridge", variant, QBRIDGE, measures, OWN)


def _app(broker: str, form: str) -> Contestant:
    return Contestant(f"QBridge app, {form}", broker, "qbridge_app", form, QBRIDGE, (MODELS,), OWN)


def _raw(name: str, broker: str, program: str, variant: str, *measures: str) -> Contestant:
    return Contestant(name, broker, program, variant, RAW, measures or (CONSUME,), OWN)


def _peer(name: str, broker: str, program: str, variant: str = "", *measures: str) -> Contestant:
    return Contestant(name, broker, program, variant, PEER, measures or _ALL, program)


_PEERS = ("Celery", "Dramatiq", "Taskiq", "FastStream", "Huey", "arq", "SAQ", "streaQ")


def _imported(name: str, module: str, kind: str, environment: str) -> Contestant:
    return Contestant(name, NO_BROKER, module, "", kind, (IMPORTS,), environment)


CONTESTANTS = (
    _qbridge("QBridge", "rabbitmq", "sync", *_ALL, BODIES, GROWTH),
    _qbridge("QBridge async", "rabbitmq", "async", *_CONSUMING),
    _qbridge("QBridge, processes", "rabbitmq", "process", PROCESSES),
    _qbridge("QBridge, classic queue", "rabbitmq", "queue_type=classic", CONSUME, PUBLISH, LATENCY),
    _qbridge("QBridge", "redis", "sync", *_ALL, BODIES, GROWTH),
    _qbridge("QBridge async", "redis", "async", *_CONSUMING, COROUTINES),
    _qbridge("QBridge, processes", "redis", "process", PROCESSES),
    *(_app(broker, form) for broker in ("rabbitmq", "redis") for form in ("sync", "async")),
    _qbridge("QBridge", "memory", "sync", CONSUME),
    _qbridge("QBridge async", "memory", "async", CONSUME, COROUTINES),
    _app("memory", "sync"),
    _raw("raw asyncio", "memory", "raw_asyncio", "", COROUTINES),
    _raw("raw pika, single ack", "rabbitmq", "raw_pika", "single", CONSUME, LATENCY, BODIES),
    _raw("raw pika, classic queue", "rabbitmq", "raw_pika", "queue_type=classic", LATENCY),
    _raw("raw pika, multiple ack", "rabbitmq", "raw_pika", "multiple", CONSUME, BODIES, MODELS),
    _raw("raw pika", "rabbitmq", "raw_pika", "", PUBLISH),
    _raw("raw redis-py", "redis", "raw_redis", "", PUBLISH),
    _raw("raw redis-py, COUNT 1", "redis", "raw_redis", "1"),
    _raw("raw redis-py, COUNT 10", "redis", "raw_redis", "10", CONSUME, BODIES),
    _raw("raw redis-py, COUNT 100", "redis", "raw_redis", "100", CONSUME, BODIES, MODELS),
    _peer("Celery, threads", "rabbitmq", "celery", "threads"),
    _peer("Celery, solo", "rabbitmq", "celery", "solo", CONSUME, LATENCY),
    _peer("Celery, prefork", "rabbitmq", "celery", "prefork", PROCESSES),
    _peer("Celery, threads", "redis", "celery", "threads"),
    _peer("Celery, prefork", "redis", "celery", "prefork", PROCESSES),
    _peer("Dramatiq", "rabbitmq", "dramatiq"),
    _peer("Dramatiq", "redis", "dramatiq"),
    _peer("Taskiq, sync", "rabbitmq", "taskiq", "sync", *_CONSUMING, MODELS),
    _peer("Taskiq, async", "rabbitmq", "taskiq", "async", *_ALL, BODIES, MODELS),
    _peer("Taskiq, sync", "redis", "taskiq", "sync", *_CONSUMING, MODELS),
    _peer("Taskiq, async", "redis", "taskiq", "async", *_ALL, BODIES, MODELS, COROUTINES),
    _peer("FastStream", "rabbitmq", "faststream", "", *_ALL, BODIES, MODELS),
    # A message that failed stays pending on Redis: there is no retry to measure.
    _peer("FastStream", "redis", "faststream", "", CONSUME, PUBLISH, LATENCY, FOOTPRINT, BODIES, MODELS),
    _peer("Huey", "redis", "huey"),
    _peer("arq", "redis", "arq", "", *_ALL, COROUTINES),
    _peer("SAQ", "redis", "saq"),  # each of its places is a connection of its own: 10,000 do not start
    _peer("streaQ", "redis", "streaq"),
    Contestant("QBridge", "sqs", "qbridge", "sync", QBRIDGE, (SQS,), OWN_SQS),
    *(Contestant(f"Celery, {pool}", "sqs", "celery", pool, PEER, (SQS,), "celery-sqs") for pool in ("threads", "solo")),
    _imported("Python alone", "", RAW, OWN),
    _imported("pika", "pika", RAW, OWN),
    _imported("redis-py", "redis", RAW, OWN),
    _imported("QBridge", "qbridge_core", QBRIDGE, OWN),
    *(_imported(name, name.lower(), PEER, name.lower()) for name in _PEERS),
)
