"""What a process counts, and how processes tell each other."""

from __future__ import annotations

import json

import pytest

from qbridge_core.telemetry.catalogue import EXITS, IN_FLIGHT, METRICS, RETRIES, RUN_TIME, TASK_BOUNDS, Kind
from qbridge_core.telemetry.figures import Figures


def told(figures: Figures) -> list[list[object]]:
    """What another process gets, as it gets it."""
    taken: list[list[object]] = json.loads(json.dumps(figures.take()))
    return taken


def counts(figures: Figures, *labels: str) -> list[int]:
    """The buckets of the run time."""
    return figures.read().distributions[RUN_TIME, labels][0]


def test_counters_add_up_by_their_labels() -> None:
    """Each set of labels is a series of its own; counting 0 shows one before anything happens."""
    figures = Figures()
    figures.count(RETRIES, "a", "failed", by=2)
    figures.count(RETRIES, "a", "failed")
    figures.count(RETRIES, "b", "failed", by=0)
    assert figures.read().counters == {(RETRIES, ("a", "failed")): 3, (RETRIES, ("b", "failed")): 0}


def test_a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed() -> None:
    """A bound belongs below it, 0 into the first bucket, and what exceeds all bounds into the last."""
    figures = Figures()
    figures.put(RUN_TIME, [7200.0, 0.005, 0.0, 0.0051, 1800.0], "q")
    figures.put(RUN_TIME, [], "q")
    expected = [0] * (len(TASK_BOUNDS) + 1)
    expected[0], expected[1], expected[-2], expected[-1] = 2, 1, 1, 1
    assert counts(figures, "q") == expected
    assert figures.read().distributions[RUN_TIME, ("q",)][1] == pytest.approx(9000.0101)


def test_a_value_may_stand_for_several() -> None:
    """It is put into its bucket so often, and into the sum."""
    figures = Figures()
    figures.put(RUN_TIME, [0.001, 9e9], "q", times=3)
    assert (counts(figures, "q")[0], counts(figures, "q")[-1], sum(counts(figures, "q"))) == (3, 3, 6)
    assert figures.read().distributions[RUN_TIME, ("q",)][1] == pytest.approx(3 * (9e9 + 0.001))


@pytest.mark.parametrize("values", [[0.003] * 5, [0.02, 3.0, 0.02, 45.0], [9e9]])
def test_buckets_hold_each_value_once(values: list[float]) -> None:
    """However they are spread, no value is lost or counted twice."""
    figures = Figures()
    figures.put(RUN_TIME, list(values), "q")
    assert sum(counts(figures, "q")) == len(values)


def test_what_was_taken_is_told_once_and_gauges_stay() -> None:
    """Taking empties counters and histograms; a gauge is told each time, since the last word counts."""
    child, parent = Figures(), Figures()
    for _ in range(2):
        child.count(EXITS, "0")
        child.put(RUN_TIME, [0.1], "q")
        child.show(IN_FLIGHT, 3, "q")
        parent.add(told(child), "child")
    parent.add(told(child), "child")
    reading = parent.read()
    assert reading.counters == {(EXITS, ("0",)): 2}
    assert sum(counts(parent, "q")) == 2
    assert reading.gauges == {(IN_FLIGHT, ("q",)): 3}


def test_gauges_of_several_processes_are_added_up_until_they_are_gone() -> None:
    """What a process had at the moment goes with it, what it has counted does not."""
    parent = Figures()
    for name, running in (("one", 2), ("two", 5)):
        child = Figures()
        child.show(IN_FLIGHT, running, "q")
        child.count(EXITS, "0")
        parent.add(told(child), name)
    assert parent.read().gauges[IN_FLIGHT, ("q",)] == 7
    parent.forget("two")
    assert parent.read().gauges[IN_FLIGHT, ("q",)] == 2
    parent.forget("one")
    assert parent.read().gauges == {}
    assert parent.read().counters[EXITS, ("0",)] == 2


def test_a_gauge_that_a_process_does_not_tell_any_more_is_gone() -> None:
    """None takes a value back, here and where it was told."""
    child, parent = Figures(), Figures()
    child.show(IN_FLIGHT, 1, "q")
    parent.add(told(child), "child")
    child.show(IN_FLIGHT, None, "q")
    child.show(IN_FLIGHT, None, "never there")
    parent.add(told(child), "child")
    assert parent.read().gauges == {}


def test_figures_of_another_version_are_left_out() -> None:
    """A metric that is not known here does not keep the others from being added."""
    parent = Figures()
    parent.add([["qbridge_of_tomorrow_total", ["q"], 1], [EXITS.name, ["0"], 1]], "child")
    assert parent.read().counters == {(EXITS, ("0",)): 1}


@pytest.mark.parametrize(
    "nonsense", [[[EXITS.name, ["0"], "many"]], [[EXITS.name]], [[RUN_TIME.name, ["q"], [1, 2], 3.0]], [7], None]
)
def test_what_is_no_figures_is_refused(nonsense: list[list[object]]) -> None:
    """Whoever told it is not to be listened to; it is a ValueError."""
    with pytest.raises(ValueError, match="no figures"):
        Figures().add(nonsense, "child")


def test_a_counter_never_goes_back() -> None:
    """Not even when another process tells of less than nothing."""
    parent = Figures()
    parent.add([[EXITS.name, ["0"], 3]], "child")
    parent.add([[EXITS.name, ["0"], -1]], "child")
    assert parent.read().counters == {(EXITS, ("0",)): 3}


def test_a_change_rings() -> None:
    """Whoever tells others waits for the next change, and not in vain."""
    figures = Figures()
    assert not figures.changed.is_set()
    for change in (
        lambda: figures.count(EXITS, "0"), lambda: figures.put(RUN_TIME, [1.0], "q"),
        lambda: figures.show(IN_FLIGHT, 1, "q"), lambda: figures.add([], "child"), lambda: figures.forget("child"),
    ):  # fmt: skip
        change()
        assert figures.changed.is_set()
        figures.changed.clear()


def test_names_follow_the_rules_of_prometheus() -> None:
    """Counters end in _total and nothing else does, times are in seconds, and each metric says what it is."""
    for metric in METRICS:
        assert metric.name.startswith("qbridge_")
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert (metric.kind is Kind.HISTOGRAM) <= metric.name.endswith("_seconds")
        assert metric.text.endswith(".")
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    assert (TASK_BOUNDS[0], TASK_BOUNDS[-1]) == (0.005, 1800.0)
