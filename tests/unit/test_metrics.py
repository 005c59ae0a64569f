"""The plugin ``Metrics``: what workers do is what Prometheus gets."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from qbridge_core import (
    BrokerUnavailableError,
    ConfigurationError,
    QueueStats,
    Reason,
    Reject,
    Snooze,
    TaskManager,
    TransientError,
    UnroutableError,
    hookimpl,
    use_plugins,
)
from qbridge_core.contrib.prometheus import Metrics
from qbridge_core.contrib.prometheus.page import page_of
from qbridge_core.hookspecs import Settlement
from qbridge_core.telemetry.catalogue import DEAD, DELAYED, METRICS, OLDEST, PAUSED, READY, Kind
from qbridge_core.telemetry.depths import Depths
from qbridge_core.telemetry.figures import Figures
from qbridge_core.work.settle import accounts
from qbridge_memory import MemoryClient
from support.wait import wait_for

DEPTH = (READY, DELAYED, DEAD, OLDEST, PAUSED)


@pytest.fixture
def registry() -> CollectorRegistry:
    """Of one test alone."""
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    """Registered there; it does not look at the broker."""
    return Metrics(registry, look_every=None)


def work_off(client: MemoryClient, handler: Callable[[object], object], metrics: Metrics, **arguments: object) -> None:
    """Run the queue ``q`` until it is empty."""
    TaskManager(client, handler, "q", "d", plugins=[metrics], **arguments).run_until_idle()  # type: ignore[arg-type]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Of one series."""
    return registry.get_sample_value(name, {"queue": "q", **labels})


def test_outcomes_retries_and_dead_letters_are_counted(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Each delivery once by what became of it, each retry and each dead letter by its reason."""
    snoozed = iter([True, False])

    def handler(payload: object) -> None:
        if payload == "bad":
            raise ValueError
        if payload == "never":
            raise Reject("no")
        if payload == "later" and next(snoozed):
            raise Snooze(0.01)

    client.send_many("q", ["good", "bad", "never", "later"])
    client.publish("q", b"no task")
    work_off(client, handler, metrics, max_retries=2)
    tasks = {
        outcome: value(registry, "qbridge_tasks_total", outcome=outcome)
        for outcome in ("succeeded", "retried", "dead-lettered", "snoozed", "handed back")
    }
    assert tasks == {"succeeded": 2, "retried": 2, "dead-lettered": 3, "snoozed": 1, "handed back": 0}
    assert value(registry, "qbridge_task_retries_total", reason="failed") == 2
    dead = {reason: value(registry, "qbridge_dead_letters_total", reason=reason) for reason in Reason}
    assert {reason for reason, count in dead.items() if count} == {Reason.FAILED, Reason.REJECTED, Reason.MALFORMED}
    assert set(dead.values()) == {0, 1}


def test_runs_and_waits_are_measured(client: MemoryClient, metrics: Metrics, registry: CollectorRegistry) -> None:
    """Each run is in both histograms once; what is no task has neither waited nor run."""
    client.send_many("q", range(3))
    client.publish("q", b"no task")
    work_off(client, lambda _: None, metrics)
    for name in ("qbridge_task_run_time_seconds", "qbridge_task_wait_time_seconds"):
        assert value(registry, f"{name}_count") == 3
        assert value(registry, f"{name}_bucket", le="+Inf") == 3
        assert value(registry, f"{name}_bucket", le="1800.0") == 3
        assert (value(registry, f"{name}_sum") or 0.0) > 0.0


class Told:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.settlements: list[Settlement] = []

    @hookimpl
    def qbridge_settlements(self, settlements: Sequence[Settlement]) -> None:
        """Remember."""
        self.settlements += settlements


def test_every_task_counts_though_not_each_quick_one_is_measured(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a flood some are measured and stand for all, exactly; a slow one among them is measured in any case."""
    monkeypatch.setattr(accounts, "_MEASURED", 20)
    told = Told()
    client.send_many("q", [*range(3000), "slow", *range(3000)])

    def handler(payload: object) -> None:
        if payload == "slow":
            time.sleep(0.06)
        if payload == 1:
            raise Reject("no")

    TaskManager(client, handler, "q", "d", plugins=[metrics, told]).run_until_idle()
    assert len(told.settlements) < 6001 == sum(each.times for each in told.settlements)
    assert {each.times for each in told.settlements if (each.duration or 0.0) > 0.05} == {1}
    assert value(registry, "qbridge_tasks_total", outcome="succeeded") == 5999
    assert value(registry, "qbridge_dead_letters_total", reason="rejected") == 2
    assert value(registry, "qbridge_task_run_time_seconds_count") == 6001
    assert value(registry, "qbridge_task_wait_time_seconds_count") == 6001


def test_handlers_in_flight_are_shown_while_they_run(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Two that run are 2, and nothing is left at the end."""
    go_on = threading.Event()
    with TaskManager(client, lambda _: go_on.wait(30), "q", "d", max_workers=2, plugins=[metrics]):
        client.send_many("q", range(2))
        wait_for(lambda: value(registry, "qbridge_tasks_in_flight") == 2)
        go_on.set()
        wait_for(lambda: value(registry, "qbridge_tasks_in_flight") == 0)


def test_what_a_stopping_worker_gives_back_is_counted(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A run that the grace period does not wait for goes back, and is no attempt."""
    began = threading.Event()
    ended = threading.Event()

    def handler(_: object) -> None:
        began.set()
        ended.wait(30)

    manager = TaskManager(client, handler, "q", "d", max_workers=1, grace_period=0.0, plugins=[metrics])
    with manager:
        client.send("q", 1)
        assert began.wait(30)
    ended.set()
    assert value(registry, "qbridge_tasks_total", outcome="handed back") == 1


def test_a_run_that_does_not_end_in_time_is_counted(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """As timed out at once, and as abandoned when it holds its thread nevertheless."""
    ended = threading.Event()
    client.send("q", 1)
    manager = TaskManager(
        client, lambda _: ended.wait(60), "q", "d", 0, 0.05, plugins=[metrics], interrupt=False, grace_period=0.0
    )
    with manager:
        wait_for(lambda: value(registry, "qbridge_dead_letters_total", reason="timed out") == 1)
        wait_for(lambda: value(registry, "qbridge_tasks_abandoned_total") == 1)
        ended.set()


def test_crashes_and_suspicions_are_kept_apart(registry: CollectorRegistry, metrics: Metrics) -> None:
    """A death that was charged to a task is one thing, a task that was beside it is another."""
    metrics.qbridge_task_crashed("q", suspected=True)
    metrics.qbridge_task_crashed("q", suspected=True)
    metrics.qbridge_task_crashed("q", suspected=False)
    assert value(registry, "qbridge_task_crashes_total") == 1
    assert value(registry, "qbridge_task_suspicions_total") == 2


def test_settlements_that_are_repeated_are_counted(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each repetition is one, however the settlement ends."""
    reject = client.reject
    troubles = iter([BrokerUnavailableError("away"), BrokerUnavailableError("away")])

    def with_trouble(*args: object, **kwargs: object) -> None:
        for trouble in troubles:
            raise trouble
        reject(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(client, "reject", with_trouble)
    client.send("q", 1)
    work_off(client, lambda _: 1 / 0, metrics, max_retries=0)
    assert value(registry, "qbridge_settlements_repeated_total") == 2
    assert value(registry, "qbridge_dead_letters_total", reason="failed") == 1


def test_every_counter_of_a_queue_is_there_from_the_start(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """A rate needs the 0 before the first event; so does one of the buckets of a histogram."""
    work_off(client, lambda _: None, metrics)
    for each in ("tasks_in_flight", "task_wait_time_seconds_count", "task_run_time_seconds_count"):
        assert value(registry, f"qbridge_{each}") == 0
    shown = {sample.name for family in registry.collect() for sample in family.samples}
    of_tasks = {metric.name for metric in METRICS if metric.kind is Kind.COUNTER and "queue" in metric.labels}
    assert of_tasks - {"qbridge_messages_published_total"} <= shown


def test_one_metrics_counts_for_several_managers_by_queue(metrics: Metrics, registry: CollectorRegistry) -> None:
    """The labels keep them apart."""
    with MemoryClient() as client:
        for queue, count in (("q", 2), ("other", 1)):
            client.declare(queue, "d")
            client.send_many(queue, range(count))
            TaskManager(client, lambda _: None, queue, "d", plugins=[metrics]).run_until_idle()
    assert value(registry, "qbridge_tasks_total", outcome="succeeded") == 2
    assert value(registry, "qbridge_tasks_total", outcome="succeeded", queue="other") == 1


def test_a_second_metrics_in_one_registry_is_refused(registry: CollectorRegistry, metrics: Metrics) -> None:
    """The error says that one is enough, and what to do with it."""
    with pytest.raises(ConfigurationError, match="make one Metrics, and give it to all managers") as raised:
        Metrics(registry)
    assert len(str(raised.value)) < 200  # prometheus_client's own text lists 55 names


def test_what_is_no_registry_is_refused() -> None:
    """With what is wanted."""
    with pytest.raises(ConfigurationError, match="a CollectorRegistry of prometheus_client is wanted, not 'metrics'"):
        Metrics("metrics")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [0, -1.0, "5", float("nan")])
def test_a_look_every_that_is_no_time_is_refused(registry: CollectorRegistry, wrong: object) -> None:
    """And nothing is registered then."""
    with pytest.raises(ConfigurationError, match="look_every"):
        Metrics(registry, look_every=wrong)  # type: ignore[arg-type]
    Metrics(registry)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ConfigurationError with the line for pip."""
    monkeypatch.setattr("qbridge_core.contrib.prometheus.page.find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"qbridge-core\[prometheus\]"):
        Metrics()


def test_the_page_is_what_the_parser_of_prometheus_reads(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Types are those of the catalogue, and buckets grow up to the count."""
    client.send_many("q", range(3))
    work_off(client, lambda _: None, metrics)
    page = page_of(registry)()
    assert page.status == 200
    assert page.body == generate_latest(registry)
    families = {family.name: family for family in text_string_to_metric_families(page.body.decode())}
    for metric in METRICS:
        if (family := families.get(metric.name.removesuffix("_total"))) is not None:
            assert family.type == metric.kind
    buckets = [
        sample.value for sample in families["qbridge_task_run_time_seconds"].samples if sample.name.endswith("_bucket")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 3


# ---------------------------------------------------------------------- what the broker says


def test_depth_is_looked_at_while_a_worker_is_there(client: MemoryClient, registry: CollectorRegistry) -> None:
    """Ready, delayed, dead and whether the queue is paused come from the broker; at the end nobody knows any more."""
    metrics = Metrics(registry, look_every=0.05)
    began, go_on = threading.Event(), threading.Event()

    def handler(payload: object) -> None:
        if payload == "bad":
            raise ValueError
        began.set()
        go_on.wait(30)

    client.send("q", "bad")
    client.send("q", "runs")
    for _ in range(3):
        client.send("q", "later", delay=600)
    manager = TaskManager(client, handler, "q", "d", max_workers=1, max_retries=0, plugins=[metrics])
    with manager:
        assert began.wait(30)
        client.send_many("q", ["waits"] * 4)
        wait_for(lambda: value(registry, "qbridge_queue_dead") == 1)
        assert value(registry, "qbridge_queue_delayed") == 3
        assert value(registry, "qbridge_queue_paused") == 0
        client.pause("q")
        wait_for(lambda: value(registry, "qbridge_queue_paused") == 1)
        wait_for(lambda: value(registry, "qbridge_queue_ready") == 4)
        go_on.set()
    wait_for(lambda: value(registry, "qbridge_queue_ready") is None)


class Described(MemoryClient):
    """Tells what the test wants to hear, or raises it; counts the looks."""

    looks = 0
    answer: QueueStats | Exception = QueueStats(1, 0, 2, dead=3, oldest_age=4.5, paused=True)

    def describe(self, queue: str) -> QueueStats:
        """Answer."""
        self.looks += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_what_the_broker_does_not_tell_is_not_shown() -> None:
    """A broker that is away, or knows no age, leaves no number that could be taken for true."""
    figures, client = Figures(), Described()
    depths = Depths(figures)
    depths.begin(0.02)
    depths.add("q", client)
    wait_for(lambda: len(figures.read().gauges) == len(DEPTH))
    assert [figures.read().gauges[metric, ("q",)] for metric in DEPTH] == [1, 2, 3, 4.5, 1]
    client.answer = QueueStats(0, 0, 0)
    wait_for(lambda: {metric for metric, _ in figures.read().gauges} == {READY, DELAYED})
    client.answer = TransientError("away")
    wait_for(lambda: not figures.read().gauges)
    client.answer = RuntimeError("a bug of a backend")
    before = client.looks
    wait_for(lambda: client.looks > before + 1)
    depths.remove("q", client)


def test_nobody_looks_before_it_is_asked_to_or_after_the_last_worker() -> None:
    """No thread and no question to a broker then; with the next worker it begins again."""
    figures, client = Figures(), Described()
    depths = Depths(figures)
    depths.add("q", client)
    assert depths._thread is None
    depths.begin(0.02)
    wait_for(lambda: client.looks)
    depths.remove("q", client)
    wait_for(lambda: depths._thread is None and not figures.read().gauges)
    seen = client.looks
    depths.add("q", client)
    wait_for(lambda: client.looks > seen)
    depths.remove("q", client)


def test_one_of_two_workers_of_a_queue_may_stop() -> None:
    """The other one's client is asked."""
    figures, one, other = Figures(), Described(), Described()
    depths = Depths(figures)
    depths.begin(0.02)
    depths.add("q", one)
    depths.add("q", other)
    depths.remove("q", other)
    depths.remove("q", other)  # a stop may be told twice
    wait_for(lambda: one.looks)
    depths.remove("q", one)


# ---------------------------------------------------------------------- what clients tell


def test_what_is_published_is_counted_and_timed(
    client: MemoryClient, metrics: Metrics, registry: CollectorRegistry
) -> None:
    """Messages by whether they were confirmed, calls by how long that took."""
    use_plugins(client, [metrics])
    client.send("q", 1)
    client.send_many("q", range(4))
    with pytest.raises(UnroutableError):
        client.publish("missing", b"{}")
    name = "qbridge_messages_published_total"
    assert value(registry, name, outcome="confirmed") == 5
    assert value(registry, name, outcome="failed") == 0
    assert value(registry, name, outcome="failed", queue="missing") == 1
    assert value(registry, "qbridge_publish_time_seconds_count") == 2
    assert value(registry, "qbridge_publish_time_seconds_count", queue="missing") is None


def test_a_program_may_make_up_any_number_of_queues(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Those beyond the first thousand share a label: nothing grows without end."""
    for number in range(1100):
        metrics.qbridge_published(f"queue {number}", 1, 0.1, None)
    assert value(registry, "qbridge_messages_published_total", outcome="confirmed", queue="(others)") == 100


def test_outages_of_a_connection_are_counted(registry: CollectorRegistry, metrics: Metrics) -> None:
    """Each loss and each return; a connection that is away has one more of the first."""
    name = {"address": "broker:5672"}
    metrics.qbridge_connection_lost(**name)
    assert registry.get_sample_value("qbridge_connections_lost_total", name) == 1
    assert registry.get_sample_value("qbridge_reconnects_total", name) == 0
    metrics.qbridge_connection_regained(**name)
    assert registry.get_sample_value("qbridge_reconnects_total", name) == 1
