"""The part of the benchmark that needs neither peers nor brokers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import measure
from benchmarks.bench import Bench, BenchError
from benchmarks.contestants import CONSUME, CONTESTANTS, COROUTINES, IMPORTS, NO_BROKER, PEER, QBRIDGE, RAW
from benchmarks.environments import Environments
from benchmarks.measure import Case
from benchmarks.results import Results, Sample
from benchmarks.servers import NoServer
from benchmarks.tables import grids
from benchmarks.tally import counted
from benchmarks.targets import verdicts

ROOT = Path(__file__).parents[2]


def sample(broker: str, kind: str, name: str, rate: float, number: int = 0) -> Sample:
    """A sample of consuming."""
    return Sample(CONSUME, broker, name, kind, "", number, {"per_second": rate, "cpu_us": 1.0})


def test_the_benchmark_measures_qbridge_and_writes_what_it_saw(tmp_path: Path) -> None:
    """A short run on memory:// prints a table and writes JSON and Markdown with a figure for each handler."""
    out, markdown = tmp_path / "out.json", tmp_path / "out.md"
    options = ["--only", "consume,coroutines,models", "--who", "memory", "--scale", "0.01", "--rounds", "2", "--here"]
    command = [sys.executable, "-m", "benchmarks", *options, "--out", str(out), "--markdown", str(markdown)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "Consume" in done.stdout
    samples = Results.load(out).samples
    first = ["QBridge", "QBridge async", "QBridge async", "raw asyncio", "QBridge app, sync"]
    assert [each.contestant for each in samples] == [*first, *first[2:], *first[:2]], (
        "the second round begins elsewhere"
    )
    assert all(each.figures.get("per_second", 0) > 0 for each in samples), done.stdout
    together = [each.figures["at_once"] for each in samples if each.measurement == COROUTINES]
    assert together == [400, 400, 400, 400], "a hundredth of 40,000 tasks, and all of them wait together"
    assert "| memory | QBridge |" in markdown.read_text()
    assert json.loads(out.read_text())["machine"]["versions"]["qbridge"]["qbridge-core"]


def test_a_contestant_that_fails_is_in_the_table(tmp_path: Path) -> None:
    """A contestant that cannot be measured does not end the run, and is shown with its error."""

    def broken(bench: Bench) -> dict[str, float]:
        raise BenchError("it does not start")

    contestant = next(each for each in CONTESTANTS if each.broker == "memory")
    failed = measure(
        Case(CONSUME, contestant, broken), 0, Bench(tmp_path, Environments(tmp_path), {"memory": NoServer()})
    )
    [(_, _, rows)] = grids(Results({}, [failed, sample("memory", QBRIDGE, "QBridge async", 5.0)]))
    assert [row[1:3] for row in rows] == [["QBridge", "FAILED: it does not start"], ["QBridge async", "5"]]


def test_targets_compare_medians_with_the_best_peer() -> None:
    """Eight times the best peer on RabbitMQ is enough, less is not, and what was not measured is neither."""
    peers = [sample("rabbitmq", PEER, "slow", 50.0), sample("rabbitmq", PEER, "quick", 100.0)]
    for rates, met in (((1.0, 800.0, 900.0), True), ((1.0, 799.0, 900.0), False)):
        own = [sample("rabbitmq", QBRIDGE, "QBridge", rate, number) for number, rate in enumerate(rates)]
        by_text = {verdict.text: verdict.met for verdict in verdicts(Results({}, peers + own))}
        assert by_text["RabbitMQ: consume, times the best peer"] is met
        assert by_text["Redis: consume, times the best peer"] is None


def test_what_a_coroutine_and_an_import_take_anyway_is_not_held_against_qbridge() -> None:
    """A coroutine may take 6 KB more than asyncio alone gives it, an import 40 ms more than the interpreter takes."""

    def run(each: float, cpu: float) -> dict[str, bool | None]:
        figures = {COROUTINES: {"each": each}, IMPORTS: {"cpu": cpu}}
        samples = [
            Sample(COROUTINES, "memory", "raw asyncio", RAW, "", 0, {"each": 2000.0}),
            Sample(IMPORTS, NO_BROKER, "Python alone", RAW, "", 0, {"cpu": 0.010}),
            Sample(IMPORTS, NO_BROKER, "pika", RAW, "", 0, {"cpu": 0.090}),
            Sample(COROUTINES, "redis", "QBridge async", QBRIDGE, "", 0, figures[COROUTINES]),
            Sample(IMPORTS, NO_BROKER, "QBridge", QBRIDGE, "", 0, figures[IMPORTS]),
        ]
        return {verdict.text: verdict.met for verdict in verdicts(Results({}, samples))}

    coroutine, imported = (
        "Redis: 10,000 coroutines at once, KB each beyond asyncio alone",
        "import qbridge_core, CPU ms",
    )
    for each, cpu, met in ((7900.0, 0.049, True), (8100.0, 0.051, False)):
        by_text = run(each, cpu)
        assert by_text[coroutine] is met
        assert [value for text, value in by_text.items() if text.startswith(imported)] == [met]


def test_the_tasks_of_two_processes_are_counted_together(tmp_path: Path) -> None:
    """Each process counts for itself, in a file that can be read while it works."""
    code = (
        "import sys, benchmarks.tally as t; handle = t.Tally(sys.argv[1]); [handle(n) for n in range(int(sys.argv[2]))]"
    )
    prefix = str(tmp_path / "report-7-tally-")
    for count in (3, 5):
        subprocess.run([sys.executable, "-c", code, prefix, str(count)], cwd=ROOT, check=True)
    entries = counted(prefix)
    assert sorted(count for count, _, _ in entries) == [3, 5]
    assert all(first <= last for _, first, last in entries)
