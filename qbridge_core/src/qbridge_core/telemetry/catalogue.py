"""Which metrics there are: their names and labels are API, listed in docs/metrics.md."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

TASK_BOUNDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0,
)  # fmt: skip
"""Upper bounds of the buckets for runs and waits, in seconds."""
PUBLISH_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Kind(StrEnum):
    """What can be done with a metric: as in Prometheus."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric, which equals itself alone, so that it is a quick key.

    Attributes:
        name: as Prometheus shows it.
        kind: counters and histograms only grow.
        text: what it says, in one sentence.
        labels: their names.
        bounds: of a histogram's buckets, without the infinite one.
    """

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ("queue",)
    bounds: tuple[float, ...] = ()


TASKS: Final = Metric(
    "qbridge_tasks_total", Kind.COUNTER, "Deliveries that have ended, by what became of them.", ("queue", "outcome")
)
RUN_TIME: Final = Metric(
    "qbridge_task_run_time_seconds", Kind.HISTOGRAM, "How long runs took.", bounds=TASK_BOUNDS
)  # fmt: skip
WAIT_TIME: Final = Metric(
    "qbridge_task_wait_time_seconds", Kind.HISTOGRAM,
    "Time from when a message was sent, came due or was put back for a retry, to the start of its run.",
    bounds=TASK_BOUNDS,
)  # fmt: skip
IN_FLIGHT: Final = Metric("qbridge_tasks_in_flight", Kind.GAUGE, "Handlers that run now.")
RETRIES: Final = Metric(
    "qbridge_task_retries_total", Kind.COUNTER, "Runs that another attempt follows, by reason.", ("queue", "reason")
)
DEAD_LETTERS: Final = Metric(
    "qbridge_dead_letters_total", Kind.COUNTER, "Messages moved to the dead-letter queue, by reason.",
    ("queue", "reason"),
)  # fmt: skip
CRASHES: Final = Metric(
    "qbridge_task_crashes_total", Kind.COUNTER, "Deaths of processes that were charged to a task, which ran alone."
)
SUSPICIONS: Final = Metric(
    "qbridge_task_suspicions_total", Kind.COUNTER,
    "Tasks that ran, maybe beside others, when their process died; each one runs apart then.",
)  # fmt: skip
ABANDONED: Final = Metric(
    "qbridge_tasks_abandoned_total",
    Kind.COUNTER,
    "Runs that had not ended a second after their time was over; each holds a thread until it does.",
)
REPEATED: Final = Metric(
    "qbridge_settlements_repeated_total",
    Kind.COUNTER,
    "Repetitions of settlements that the broker could not carry out.",
)
LOST: Final = Metric(
    "qbridge_connections_lost_total", Kind.COUNTER, "How often a connection to the broker was lost.", ("address",)
)
RECONNECTS: Final = Metric(
    "qbridge_reconnects_total", Kind.COUNTER, "How often a connection to the broker was found again.", ("address",)
)
PUBLISHED: Final = Metric(
    "qbridge_messages_published_total", Kind.COUNTER,
    "Messages handed to the broker, by whether it has confirmed them.", ("queue", "outcome"),
)  # fmt: skip
PUBLISH_TIME: Final = Metric(
    "qbridge_publish_time_seconds", Kind.HISTOGRAM,
    "How long calls that publish took until the broker had confirmed all their messages.", bounds=PUBLISH_BOUNDS,
)  # fmt: skip
READY: Final = Metric("qbridge_queue_ready", Kind.GAUGE, "Messages that wait to be delivered.")
DELAYED: Final = Metric("qbridge_queue_delayed", Kind.GAUGE, "Messages whose time has not come.")
DEAD: Final = Metric("qbridge_queue_dead", Kind.GAUGE, "Letters in the dead-letter queue.")
OLDEST: Final = Metric(
    "qbridge_queue_oldest_age_seconds", Kind.GAUGE,
    "For how long the oldest ready message has been there; only where the broker tells.",
)  # fmt: skip
PAUSED: Final = Metric("qbridge_queue_paused", Kind.GAUGE, "1 while workers rest because the queue is paused, else 0.")
PROCESSES: Final = Metric(
    "qbridge_worker_processes", Kind.GAUGE, "Worker processes of this supervisor that live now.", ()
)
EXITS: Final = Metric(
    "qbridge_worker_process_exits_total", Kind.COUNTER,
    "Ends of worker processes of this supervisor, by exit status or the name of the signal.", ("exit",),
)  # fmt: skip
UP: Final = Metric("qbridge_exporter_up", Kind.GAUGE, "1 while `qbridge exporter` hears from its broker, else 0.", ())

METRICS: Final = (
    TASKS, RUN_TIME, WAIT_TIME, IN_FLIGHT, RETRIES, DEAD_LETTERS, CRASHES, SUSPICIONS, ABANDONED, REPEATED, LOST,
    RECONNECTS, PUBLISHED, PUBLISH_TIME, READY, DELAYED, DEAD, OLDEST, PAUSED, PROCESSES, EXITS, UP,
)  # fmt: skip
"""All of them."""
BY_NAME: Final = {metric.name: metric for metric in METRICS}
