"""The files of deploy/: what they run, and the tools that check them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from support.pages import DOCS, ROOT

DEPLOY: Final = ROOT / "deploy"
MANIFESTS: Final = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS: Final = sorted((DEPLOY / "systemd").glob("*.service"))
STOPS_WITHIN: Final = 28.5
"""Seconds that a worker with the default grace period needs at most, and a supervisor gives to its workers."""


def tool(name: str) -> str:
    """The path of a tool; without it the test is skipped, and says so."""
    beside = [Path(sys.executable).parent, ROOT / ".tools"]
    found = shutil.which(name, path=os.pathsep.join([*map(str, beside), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"NO {name.upper()}: what it would check of deploy/ is not checked")
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    """What a file of YAML has in it."""
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each]


def containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The containers of a Deployment or a CronJob."""
    yield from pod(manifest).get("containers", [])


def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    """The specification of a manifest's pods; an empty one where it has none."""
    spec = manifest.get("spec", {})
    template: dict[str, Any] = spec.get("jobTemplate", {}).get("spec", spec).get("template", {})
    return dict(template.get("spec", {}))


def commands() -> dict[str, list[str]]:
    """Each call of ``qbridge`` in deploy/ and on the page about production, and where it is."""
    found: dict[str, list[str]] = {}
    for source, words in _calls():
        found[f"{source}: {' '.join(words)}"] = words
    return found


def _calls() -> Iterator[tuple[str, list[str]]]:
    for path in MANIFESTS:
        for manifest in documents(path):
            for container in containers(manifest):
                args = container["args"]
                yield from _in_shell(path.name, args[-1]) if args[0] == "sh" else [(path.name, args[1:])]
    for name, service in documents(DEPLOY / "compose.yaml")[0]["services"].items():
        if service.get("command", [""])[0] == "qbridge":
            yield f"compose.yaml, {name}", service["command"][1:]
    for path in UNITS:
        yield from _in_shell(path.name, path.read_text(encoding="utf-8"))
    (default,) = re.findall(r"^CMD (\[.*\])$", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    yield "Dockerfile", json.loads(default)[1:]
    page = (DOCS / "production.md").read_text(encoding="utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        yield from _in_shell("production.md", block)
    for code in re.findall(r"`(qbridge \w+ [^`]+)`", page):
        yield from _in_shell("production.md", code.replace("\n", " "))


def _in_shell(source: str, text: str) -> Iterator[tuple[str, list[str]]]:
    """The calls in text for a shell, or for systemd."""
    for call in re.findall(r"(?:^|[ =/])qbridge ([a-z].*)$", text, re.MULTILINE):
        yield source, shlex.split(call)
