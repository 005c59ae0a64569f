"""The Dockerfile and compose.yaml. That an image's steps work is for scripts/test-dockerfile.sh."""

from __future__ import annotations

import re
import subprocess

from support.deployment import DEPLOY, STOPS_WITHIN, documents, tool
from support.pages import ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
SERVICES = documents(DEPLOY / "compose.yaml")[0]["services"]


def test_hadolint_finds_nothing_wrong() -> None:
    """The linter for Dockerfiles."""
    done = subprocess.run([tool("hadolint"), str(DEPLOY / "Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_compose_is_what_docker_takes() -> None:
    """By the schema of the Compose specification."""
    done = subprocess.run(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_image_is_not_roots() -> None:
    """Its user is a number, which Kubernetes can compare with 0."""
    (user,) = re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


def test_what_is_copied_is_there_and_not_ignored() -> None:
    """Each folder that the Dockerfile copies, where somebody has built the wheels."""
    copied = {
        source.replace("${APP}", "deploy/app")
        for source in re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE)
    }
    assert copied == {"dist/", "deploy/app/requirements.txt", "deploy/app/"}
    assert all((ROOT / source).exists() for source in copied - {"dist/"})
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"*", "!dist", "!deploy/app"} <= set(ignored)


def test_a_worker_gets_the_time_that_it_needs_to_stop() -> None:
    """More than its grace period and what its supervisor adds."""
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) >= STOPS_WITHIN + 5


def test_the_brokers_keep_what_they_have() -> None:
    """Both have a volume; RabbitMQ a name by which it finds its data again, Redis a log and nothing that it evicts."""
    volumes = documents(DEPLOY / "compose.yaml")[0]["volumes"]
    for name, place in (("rabbitmq", "/var/lib/rabbitmq"), ("redis", "/data")):
        assert SERVICES[name]["volumes"] == [f"{name}:{place}"]
        assert name in volumes
        assert SERVICES[name]["healthcheck"]
    assert SERVICES["rabbitmq"]["hostname"]
    assert "--appendonly yes --maxmemory-policy noeviction" in " ".join(SERVICES["redis"]["command"])
