"""What QBridge promises of its speed, and whether a run or one of its rounds shows it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contestants import (
    BODIES,
    CONSUME,
    COROUTINES,
    FOOTPRINT,
    GROWTH,
    IMPORTS,
    LATENCY,
    MODELS,
    NO_BROKER,
    PEER,
    PROCESSES,
    PUBLISH,
    QBRIDGE,
    RAW,
    SQS,
)
from benchmarks.results import Results

BROKERS = {"rabbitmq": "RabbitMQ", "redis": "Redis"}
TO_PEERS = {"rabbitmq": 8.0, "redis": 17.0}
TO_RAW = {"rabbitmq": 0.7, "redis": 0.5}
MEMORY_PER_SECOND = 100_000.0
PUBLISH_TO_PEERS = 15.0
AT_ONCE_TO_PEERS = {"rabbitmq": 4.0, "redis": 2.0}
ASYNC_TO_PEERS = 5.0
MODELS_TO_PEERS = 4.0
ASYNC_TO_FUNCTION = 0.5
OF_IDEAL = 0.9
MOST_THREADS = 20.0
KILOBYTES_EACH = 6.0
PROCESSES_TO_PEERS = 8.0
BODIES_TO_RAW = 0.7
SQS_TO_CELERY = 3.0
IMPORT_MILLISECONDS = 40.0
KILOBYTE = 1000
MEBIBYTE = 2**20  # the unit of ps and top
OWN_MEBIBYTES = 7.0
DRIVERS = {"rabbitmq": "pika", "redis": "redis-py"}
GROWN = 0.9
FLAT = 1.2
ONE_BY_ONE, AT_ONCE, MANY = "one by one", "one by one from 16 threads", "many"
CONSUMED = "consumed"
LONG_BODIES = ("10 KB", "1 MB")
FEW_WAITING, MANY_WAITING = "10,000 waiting", "1,000,000 waiting"


def of_body(length: str) -> str:
    """The label of a case with bodies of this length."""
    return f"bodies of {length}"


@dataclass(frozen=True)
class Verdict:
    """A target, what was seen, and whether that is enough (None: not measured)."""

    text: str
    seen: float | None
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool | None:
        """Whether the target is met."""
        if self.seen is None:
            return None
        return self.seen >= self.wanted if self.at_least else self.seen <= self.wanted

    @property
    def sign(self) -> str:
        """Which side of what is wanted is good."""
        return "≥" if self.at_least else "≤"


def verdicts(results: Results) -> list[Verdict]:
    """All targets."""
    found = [verdict for broker in BROKERS for part in (_of_broker, _of_handlers) for verdict in part(results, broker)]
    found += [verdict for broker in ("memory", "redis") for verdict in _of_coroutines(results, broker)]
    # A quorum queue delivers what is on the disk, a classic one, which most peers use, what it has.
    classic = _own(results, LATENCY, "rabbitmq", who="QBridge, classic queue")
    quickest = _best(results, LATENCY, "rabbitmq", PEER, "p50")
    text = "RabbitMQ, classic queue: idle latency p50, of the best peer"
    found.append(Verdict(text, _part(classic, "p50", quickest, "p50"), 1.0, False))
    own = _own(results, CONSUME, "memory")
    found.append(Verdict("memory: consume, a second", own.get("per_second"), MEMORY_PER_SECOND))
    alone = _best(results, IMPORTS, NO_BROKER, RAW, "cpu")  # nothing that is imported can take less
    imported = _own(results, IMPORTS, NO_BROKER)
    cost = (imported["cpu"] - alone["cpu"]) * 1e3 if imported and alone else None
    found.append(Verdict("import qbridge_core, CPU ms above Python alone", cost, IMPORT_MILLISECONDS, False))
    return found + _of_sqs(results)


def _of_sqs(results: Results) -> list[Verdict]:
    """Against Celery on the same server, which knows no way of its own for many."""
    rate, found = "per_second", []
    for label, other in ((CONSUMED, CONSUMED), (MANY, ONE_BY_ONE)):
        own, peer = _own(results, SQS, "sqs", label), _best(results, SQS, "sqs", PEER, rate, other)
        against = "" if label == other else f" {other}"
        text = f"SQS: {label}, times Celery{against}"
        found.append(Verdict(text, _part(own, rate, peer, rate), SQS_TO_CELERY))
    return found


def _of_handlers(results: Results, broker: str) -> list[Verdict]:
    """Coroutines, child processes, long bodies, and how soon the first task runs."""
    name, rate = BROKERS[broker], "per_second"
    function, coroutine = _own(results, CONSUME, broker), _own(results, CONSUME, broker, who="QBridge async")
    children, idle = _own(results, PROCESSES, broker, who="QBridge, processes"), _own(results, FOOTPRINT, broker)
    peer, pool = (_best(results, measurement, broker, PEER, rate) for measurement in (CONSUME, PROCESSES))
    soonest = _best(results, FOOTPRINT, broker, PEER, "start")
    async_part = _part(coroutine, rate, function, rate)
    found = [
        Verdict(f"{name}: async def, times the best peer", _part(coroutine, rate, peer, rate), ASYNC_TO_PEERS),
        Verdict(f"{name}: async def, of a plain function", async_part, ASYNC_TO_FUNCTION),
        Verdict(f"{name}: two processes, times Celery's", _part(children, rate, pool, rate), PROCESSES_TO_PEERS),
        Verdict(f"{name}: start to first task, of the best peer", _part(idle, "start", soonest, "start"), 1.0, False),
    ]
    for form in ("sync", "async"):
        app = _own(results, MODELS, broker, who=f"QBridge app, {form}")
        other = _best(results, MODELS, broker, PEER, rate)
        text = f"{name}: app with a pydantic model, {form}, times the best peer"
        found.append(Verdict(text, _part(app, rate, other, rate), MODELS_TO_PEERS))
    for length in LONG_BODIES:
        own = _own(results, BODIES, broker, of_body(length))
        raw = _best(results, BODIES, broker, RAW, rate, of_body(length))
        text = f"{name}: {of_body(length)}, of the bare client that reads JSON"
        found.append(Verdict(text, _part(own, rate, raw, rate), BODIES_TO_RAW))
    return found


def _of_coroutines(results: Results, broker: str) -> list[Verdict]:
    """Ten thousand at once; asyncio alone, measured without a broker, says what a coroutine itself takes."""
    name, what = BROKERS.get(broker, broker), "10,000 coroutines at once"
    own = _own(results, COROUTINES, broker, who="QBridge async")
    alone = _best(results, COROUTINES, "memory", RAW, "each")
    beyond = (own["each"] - alone["each"]) / KILOBYTE if own and alone else None
    return [
        Verdict(f"{name}: {what}, of the ideal rate", own.get("efficiency"), OF_IDEAL),
        Verdict(f"{name}: {what}, threads", own.get("threads"), MOST_THREADS, False),
        Verdict(f"{name}: {what}, KB each beyond asyncio alone", beyond, KILOBYTES_EACH, False),
    ]


def _of_broker(results: Results, broker: str) -> list[Verdict]:
    name, rate = BROKERS[broker], "per_second"
    consume, publish = _own(results, CONSUME, broker), _own(results, PUBLISH, broker, MANY)
    latency, idle = _own(results, LATENCY, broker), _own(results, FOOTPRINT, broker)
    few, many = _own(results, GROWTH, broker, FEW_WAITING), _own(results, GROWTH, broker, MANY_WAITING)
    peer, raw = (_best(results, CONSUME, broker, kind, rate) for kind in (PEER, RAW))
    sender = _best(results, PUBLISH, broker, PEER, rate, ONE_BY_ONE)
    at_once = _own(results, PUBLISH, broker, AT_ONCE)
    senders = _best(results, PUBLISH, broker, PEER, rate, AT_ONCE)
    quickest = _best(results, LATENCY, broker, PEER, "p50")
    driver = _own(results, IMPORTS, NO_BROKER, who=DRIVERS[broker], kind=RAW)
    mebibytes = (idle["rss"] - driver["rss"]) / MEBIBYTE if idle and "rss" in driver else None
    grown, flat = _part(many, rate, few, rate), _part(many, "last_rss", many, "first_rss")
    return [
        Verdict(f"{name}: consume, times the best peer", _part(consume, rate, peer, rate), TO_PEERS[broker]),
        Verdict(f"{name}: consume, of the bare client", _part(consume, rate, raw, rate), TO_RAW[broker]),
        Verdict(
            f"{name}: publish many, times the best peer's one by one",
            _part(publish, rate, sender, rate),
            PUBLISH_TO_PEERS,
        ),
        Verdict(
            f"{name}: publish from 16 threads, times the best peer doing the same",
            _part(at_once, rate, senders, rate),
            AT_ONCE_TO_PEERS[broker],
        ),
        Verdict(f"{name}: idle latency p50, of the best peer", _part(latency, "p50", quickest, "p50"), 1.0, False),
        Verdict(
            f"{name}: memory of an idle worker above {DRIVERS[broker]}'s import, MiB", mebibytes, OWN_MEBIBYTES, False
        ),
        Verdict(f"{name}: consume with 1,000,000 waiting, of that with 10,000", grown, GROWN),
        Verdict(f"{name}: memory after 1,000,000 tasks, of that before", flat, FLAT, False),
    ]


def _best(
    results: Results, measurement: str, broker: str, kind: str, figure: str, label: str | None = None
) -> dict[str, float]:
    row = results.best(measurement, broker, kind, figure, label)
    return row.figures if row else {}


def _own(
    results: Results, measurement: str, broker: str, label: str = "", *, who: str = "QBridge", kind: str = QBRIDGE
) -> dict[str, float]:
    rows = [row for row in results.rows(measurement, broker, kind) if row.contestant == who]
    return next((row.figures for row in rows if row.label == label), {})


def _part(own: dict[str, float], name: str, other: dict[str, float], other_name: str) -> float | None:
    return own[name] / other[other_name] if name in own and other_name in other else None
