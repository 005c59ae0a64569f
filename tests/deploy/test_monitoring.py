"""The rules for alerts, the configuration of Prometheus and the dashboard."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qbridge_core.telemetry.catalogue import METRICS, Kind
from support.deployment import DEPLOY, documents, tool
from support.pages import DOCS

MONITORING = DEPLOY / "monitoring"
ALERTS = MONITORING / "alerts.yml"
RULES = documents(ALERTS)[0]["groups"][0]["rules"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
LABELS = {
    name: {*metric.labels, "le"} if metric.kind is Kind.HISTOGRAM else {*metric.labels}
    for metric in METRICS
    for name in (
        [metric.name] if metric.kind is not Kind.HISTOGRAM
        else [f"{metric.name}_{part}" for part in ("bucket", "sum", "count")]
    )
}  # fmt: skip
"""The series that there are, and their labels."""
TEN_A_MINUTE = "0+10x60"
FIRED = {
    "QBridgeTargetDown": {'up{job="qbridge-worker",instance="a"}': "0x60"},
    "QBridgeBrokerAway": {'qbridge_exporter_up{instance="a"}': "0x60"},
    "QBridgeQueueStuck": {
        'qbridge_queue_ready{queue="emails"}': "3x60",
        'qbridge_queue_paused{queue="emails"}': "0x60",
        'qbridge_tasks_in_flight{queue="emails"}': "0x60",
        'qbridge_tasks_total{queue="emails",outcome="succeeded"}': "7x60",
    },
    "QBridgeTasksWaitLong": {
        'qbridge_task_wait_time_seconds_bucket{queue="emails",le="300"}': "0x60",
        'qbridge_task_wait_time_seconds_bucket{queue="emails",le="600"}': TEN_A_MINUTE,
        'qbridge_task_wait_time_seconds_bucket{queue="emails",le="+Inf"}': TEN_A_MINUTE,
    },
    "QBridgeOldestTaskOld": {'qbridge_queue_oldest_age_seconds{queue="emails"}': "1000+60x60"},
    "QBridgeManyFailures": {
        'qbridge_tasks_total{queue="emails",outcome="succeeded"}': TEN_A_MINUTE,
        'qbridge_tasks_total{queue="emails",outcome="retried"}': TEN_A_MINUTE,
    },
    "QBridgeDeadLetters": {'qbridge_queue_dead{queue="emails"}': "1x60"},
    "QBridgeTasksCrash": {'qbridge_task_crashes_total{queue="emails"}': "0x29 1x30"},
    "QBridgeWorkersEnd": {'qbridge_worker_process_exits_total{exit="SIGKILL"}': TEN_A_MINUTE},
    "QBridgeRunsAbandoned": {'qbridge_tasks_abandoned_total{queue="emails"}': "0x29 1x30"},
    "QBridgeConnectionsLost": {'qbridge_connections_lost_total{address="amqp://a"}': TEN_A_MINUTE},
    "QBridgeSettlementsRepeated": {'qbridge_settlements_repeated_total{queue="emails"}': TEN_A_MINUTE},
    "QBridgePublishingFails": {'qbridge_messages_published_total{queue="emails",outcome="failed"}': TEN_A_MINUTE},
    "QBridgeQueuePaused": {'qbridge_queue_paused{queue="emails"}': "1x120"},
}
"""What each alert is for: the values of series, one for each minute."""
QUIET = {
    "QBridgeQueueStuck": [
        {**FIRED["QBridgeQueueStuck"], 'qbridge_queue_paused{queue="emails"}': "1x60"},
        {**FIRED["QBridgeQueueStuck"], 'qbridge_tasks_in_flight{queue="emails"}': "1x60"},
        {**FIRED["QBridgeQueueStuck"], 'qbridge_tasks_total{queue="emails",outcome="succeeded"}': TEN_A_MINUTE},
    ],
    "QBridgeManyFailures": [
        {**FIRED["QBridgeManyFailures"], 'qbridge_tasks_total{queue="emails",outcome="succeeded"}': "0+100x60"},
    ],
    "QBridgeWorkersEnd": [{'qbridge_worker_process_exits_total{exit="0"}': TEN_A_MINUTE}],
    "QBridgePublishingFails": [
        {'qbridge_messages_published_total{queue="emails",outcome="confirmed"}': TEN_A_MINUTE},
    ],
}
"""What must not fire it."""


def promtool(*words: str) -> str:
    """What the tool of Prometheus says; it must find nothing wrong."""
    done = subprocess.run([tool("promtool"), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_its_configuration_and_the_rules() -> None:
    """Syntax, functions, templates and files that are named."""
    assert f"{len(RULES)} rules found" in promtool("check", "config", str(MONITORING / "prometheus.yml"))


def scenario(alert: str, series: dict[str, str], *, fires: bool) -> dict[str, Any]:
    """A test for promtool: series, and whether one alert has fired after half an hour, or an hour and a bit."""
    expression = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}}) or vector(0)'
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "70m" if alert == "QBridgeQueuePaused" else "31m",
                "exp_samples": [{"labels": "{}", "value": int(fires)}],
            }
        ],
    }


def test_each_alert_fires_when_it_should_and_not_otherwise(tmp_path: Path) -> None:
    """On the series that it is for; and not on those of a queue that is paused, busy or well."""
    assert {rule["alert"] for rule in RULES} == FIRED.keys()
    tests = [scenario(alert, series, fires=True) for alert, series in FIRED.items()]
    tests += [scenario(alert, series, fires=False) for alert, all_of in QUIET.items() for series in all_of]
    written = tmp_path / "tests.json"  # JSON is YAML
    written.write_text(json.dumps({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(written))


def expressions() -> list[str]:
    """What the rules and the dashboard ask Prometheus."""
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [each["expr"] for each in (*RULES, *targets)]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_metrics_that_there_are(expression: str) -> None:
    """By their names, and by labels that they have."""
    asked = re.findall(r"\b(qbridge_\w+)(?:\{([^}]*)\})?", expression)
    assert asked or "up{" in expression
    for name, selectors in asked:
        assert name in LABELS
        assert set(re.findall(r"(\w+)\s*(?:=|!=)", selectors)) <= LABELS[name]
    grouped = {label for labels in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for label in labels.split(", ")}
    assert grouped <= set().union(*(LABELS[name] for name, _ in asked))


def test_the_dashboard_shows_every_metric() -> None:
    """But for that of the exporter's own health, which is an alert."""
    shown = set(re.findall(r"\bqbridge_\w+?(?=_bucket|\b)", " ".join(expressions())))
    assert shown >= {metric.name for metric in METRICS}


def test_the_dashboard_can_be_imported() -> None:
    """Panels have places and ids of their own, and their source of data is chosen there."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)
    chosen = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert chosen == {"datasource", "queue"}
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}


def test_the_page_explains_every_alert() -> None:
    """In its table, and none that there is not."""
    page = (DOCS / "production.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(QBridge[A-Z]\w+)`", page)) == {rule["alert"] for rule in RULES}


def test_prometheus_scrapes_what_compose_runs() -> None:
    """The names and ports of its services; and the rules ask for these jobs."""
    (config,) = documents(MONITORING / "prometheus.yml")
    services = documents(DEPLOY / "compose.yaml")[0]["services"]
    workers, exporter = config["scrape_configs"]
    (asked,) = workers["dns_sd_configs"]
    assert f"--metrics-port={asked['port']}" in services[asked["names"][0]]["command"]
    ((target,),) = (each["targets"] for each in exporter["static_configs"])
    name, _, port = target.partition(":")
    assert f"--port={port}" in services[name]["command"]
    assert all(job["job_name"].startswith("qbridge-") for job in config["scrape_configs"])
