"""The manifests for Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qbridge_core import connect
from support.brokers import free_port
from support.deployment import DEPLOY, MANIFESTS, STOPS_WITHIN, containers, documents, pod, tool
from support.wait import wait_for

KUBERNETES = [path for path in MANIFESTS if path.name != "keda.yaml"]
RESOURCES = [manifest for path in KUBERNETES for manifest in documents(path)]
PODS = {manifest["metadata"]["name"]: manifest for manifest in RESOURCES if pod(manifest)}
(KEDA,) = documents(DEPLOY / "kubernetes" / "keda.yaml")


def named(kind: str, name: str) -> dict[str, Any]:
    """The one resource of this kind and name."""
    (found,) = (each for each in RESOURCES if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_a_manifest_is_what_kubernetes_takes(path: Path) -> None:
    """By the schemas of its API, where every field has to be known."""
    done = subprocess.run(
        [tool("kubernetes-validate"), "--strict", str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout + done.stderr


def test_a_worker_gets_the_time_that_it_needs_to_stop() -> None:
    """More than its grace period and what its end takes, also under a supervisor."""
    assert pod(named("Deployment", "emails-worker"))["terminationGracePeriodSeconds"] >= STOPS_WITHIN + 5


def test_the_probes_ask_pages_of_the_worker() -> None:
    """At the port that it is told to open, to others than itself."""
    (container,) = containers(named("Deployment", "emails-worker"))
    (port,) = container["ports"]
    assert f"--metrics-port={port['containerPort']}" in container["args"]
    assert "--metrics-host=0.0.0.0" in container["args"]
    asked = {probe: container[probe]["httpGet"] for probe in ("livenessProbe", "readinessProbe", "startupProbe")}
    assert {probe: page["path"] for probe, page in asked.items()} == {
        "livenessProbe": "/livez", "readinessProbe": "/readyz", "startupProbe": "/livez"
    }  # fmt: skip
    assert {page["port"] for page in asked.values()} == {port["name"]}


def test_the_worker_of_the_manifest_answers_its_probes_and_stops(redis_url: str, unique_name: str) -> None:
    """With its own arguments, but for the address: green while it consumes, and status 0 after SIGTERM."""
    (container,) = containers(named("Deployment", "emails-worker"))
    port = free_port()
    args = [arg for arg in container["args"][1:] if not arg.startswith("--metrics-")]
    command = [sys.executable, "-m", "qbridge_core", *args, f"--metrics-port={port}"]
    variables = {**os.environ, "QBRIDGE_URL": f"{redis_url}?prefix={unique_name}:"}

    def answers(path: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # it has not started, or is not ready
            return False

    with subprocess.Popen(command, cwd=DEPLOY / "app", env=variables) as process:
        try:
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = container[probe]["httpGet"]["path"]
                wait_for(lambda path=path: answers(path), 60, f"{path} is green")  # type: ignore[misc]
        finally:
            process.terminate()
    assert process.returncode == 0


def test_the_periodic_job_sends_the_task_of_the_day(redis_url: str, unique_name: str) -> None:
    """Its own command line, run twice: two tasks with one id, for no broker removes the second."""
    (container,) = containers(named("CronJob", "daily-report"))
    url = f"{redis_url}?prefix={unique_name}:"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with connect(url) as client:
        client.declare("reports", "reports.dead")
        days = {f"{datetime.now(UTC):%F}"}
        for _ in range(2):
            subprocess.run(container["args"], env={**os.environ, "QBRIDGE_URL": url, "PATH": path}, check=True)
        days.add(f"{datetime.now(UTC):%F}")
        sent = [json.loads(delivery.body) for delivery in client.receive("reports", 2, 10.0)]
    assert len(sent) == 2
    assert all(task["task_id"] == f"report-{task['payload']['day']}" for task in sent)
    assert {task["payload"]["day"] for task in sent} <= days


@pytest.mark.parametrize("manifest", PODS.values(), ids=PODS)
def test_no_pod_runs_as_root(manifest: dict[str, Any]) -> None:
    """Nor may it become root, or write to its image."""
    assert pod(manifest)["securityContext"]["runAsNonRoot"] is True
    for container in containers(manifest):
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_the_budget_is_for_the_pods_of_the_worker() -> None:
    """Both have the same label."""
    labels = named("Deployment", "emails-worker")["spec"]["template"]["metadata"]["labels"]
    assert named("PodDisruptionBudget", "emails-worker")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_what_scales_is_the_worker_by_its_exporter() -> None:
    """KEDA's object names the Deployment, and the Service of the exporter with its port; its settings are texts."""
    spec = KEDA["spec"]
    assert (KEDA["apiVersion"], KEDA["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    assert named("Deployment", spec["scaleTargetRef"]["name"])
    (trigger,) = spec["triggers"]
    assert trigger["type"] == "metrics-api"
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    url = urlsplit(trigger["metadata"]["url"])
    (port,) = named("Service", str(url.hostname))["spec"]["ports"]
    assert port["port"] == url.port
    (container,) = containers(named("Deployment", str(url.hostname)))
    assert f"--port={url.port}" in container["args"]


def test_what_keda_reads_grows_with_the_queue(redis_url: str, unique_name: str) -> None:
    """The exporter of the manifest shows a number where the trigger looks for it."""
    (container,) = containers(named("Deployment", "qbridge-exporter"))
    metadata = KEDA["spec"]["triggers"][0]["metadata"]
    port, url = free_port(), f"{redis_url}?prefix={unique_name}:"
    args = [arg for arg in container["args"][1:] if not arg.startswith(("--host", "--port"))]
    command = [sys.executable, "-m", "qbridge_core", *args, f"--port={port}", f"--url={url}", "--interval=1"]

    def value() -> object:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}{urlsplit(metadata['url']).path}", timeout=5
            ) as answer:
                return json.load(answer)[metadata["valueLocation"]]
        except OSError:  # it has not started, or has not heard from the broker
            return None

    with connect(url) as client, subprocess.Popen(command) as process:
        try:
            client.declare("emails", "emails.dead")
            wait_for(lambda: value() == 0, 30, "the exporter shows an empty queue")
            client.send_many("emails", range(7))
            wait_for(lambda: value() == 7, 30, "the exporter shows seven tasks")
        finally:
            process.terminate()
