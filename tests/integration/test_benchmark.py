"""The part of the benchmark that needs neither peers nor brokers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.__main__ import measure
from benchmarks.bench import Bench, BenchError
from benchmarks.contestants import CONSUME, CONTESTANTS, PEER, QBRIDGE
from benchmarks.measure import Case
from benchmarks.results import Results, Sample
from benchmarks.servers import NoServer
from benchmarks.tables import grids
from benchmarks.targets import verdicts

ROOT = Path(__file__).parents[2]


def sample(broker: str, kind: str, name: str, rate: float, number: int = 0) -> Sample:
    """A sample of consuming."""
    return Sample(CONSUME, broker, name, kind, "", number, {"per_second": rate, "cpu_us": 1.0})


def test_the_benchmark_measures_qbridge_and_writes_what_it_saw(tmp_path: Path) -> None:
    """A short run on memory:// prints a table and writes JSON and Markdown with a figure for each handler."""
    out, markdown = tmp_path / "out.json", tmp_path / "out.md"
    options = ["--only", "consume", "--who", "memory", "--scale", "0.01", "--rounds", "2"]
    command = [sys.executable, "-m", "benchmarks", *options, "--out", str(out), "--markdown", str(markdown)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "Consume" in done.stdout
    samples = Results.load(out).samples
    expected = [("QBridge", 0), ("QBridge async", 0), ("QBridge async", 1), ("QBridge", 1)]
    assert [(each.contestant, each.round) for each in samples] == expected
    assert all(each.figures.get("per_second", 0) > 0 for each in samples), done.stdout
    assert "| memory | QBridge |" in markdown.read_text()
    assert json.loads(out.read_text())["machine"]["versions"]["qbridge"]["qbridge-core"]


def test_a_contestant_that_fails_is_in_the_table(tmp_path: Path) -> None:
    """A contestant that cannot be measured does not end the run, and is shown with its error."""

    def broken(bench: Bench) -> dict[str, float]:
        raise BenchError("it does not start")

    contestant = next(each for each in CONTESTANTS if each.broker == "memory")
    failed = measure(Case(CONSUME, contestant, broken), 0, Bench(tmp_path, tmp_path, {"memory": NoServer()}))
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
