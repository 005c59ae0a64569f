"""Carries out the steps of a Dockerfile in trees of Debian.

The image that it begins with is a tree of the same release, with that one's own Python. Each stage is a copy of it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from support.pages import ROOT

BASES: Final = {"python:3.13-slim": "trixie"}
"""Images, and the release of Debian that each of them is made of."""
PACKAGES: Final = "python3,python3-venv,python-is-python3,ca-certificates"
HOME: Final = ROOT / ".matrix" / "dockerfile"
WHEELS: Final = HOME / "wheels"


@dataclass
class Stage:
    """What an image is while it is made."""

    tree: Path
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    arguments: dict[str, str] = field(default_factory=dict)
    directory: str = "/"
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def filled(self, text: str) -> str:
        """With the values of arguments and variables."""
        known = {**self.environment, **self.arguments}
        return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), text)

    def inside(self, *words: str, user: str = "") -> list[str]:
        """A command line that runs something in the tree."""
        as_user = [
            "setpriv",
            f"--reuid={user.partition(':')[0]}",
            f"--regid={user.partition(':')[2]}",
            "--clear-groups",
        ]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        place = ["env", f"--chdir={self.directory}", *variables]
        return [str(ROOT / "scripts" / "in-tree.sh"), str(self.tree), *(as_user if user else []), *place, *words]


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The steps of a Dockerfile, each on one line."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, rest = line.partition(" ")
        yield word, rest


def build(text: str) -> Stage:
    """Carry out all steps; the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(HOME / "none")
    for number, (word, rest) in enumerate(instructions(text)):
        print(f"{number}: {word} {rest}", flush=True)
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            stage = stages[name or "last"] = Stage(tree_like(image, name or "last"))
        else:
            STEPS[word](stage, rest, stages)
    return stage


def tree_like(image: str, name: str) -> Path:
    """A tree of its own for a stage."""
    release = BASES[image]
    subprocess.run([ROOT / "scripts" / "debian-tree.sh", release, PACKAGES, f"{release}-python"], check=True)
    tree = HOME / name
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", ROOT / ".matrix" / f"{release}-python", tree], check=True)
    shutil.copy("/etc/resolv.conf", tree / "etc" / "resolv.conf")
    shutil.copytree("/etc/apt/apt.conf.d", tree / "etc" / "apt" / "apt.conf.d", dirs_exist_ok=True)
    return tree


def run(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """RUN: pip finds here what it would find in an index, for the tree knows none."""
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(WHEELS), "PIP_CONFIG_FILE": "/dev/null"}
    step = Stage(stage.tree, {**stage.environment, **pip}, directory=stage.directory)
    subprocess.run(step.inside("sh", "-c", stage.filled(rest) if "$" in rest else rest), check=True, cwd=ROOT)


def copy(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """COPY: from the checkout, or from another stage."""
    *flags, source, target = shlex.split(stage.filled(rest))
    root = stages[flags[0].removeprefix("--from=")].tree if flags else ROOT
    origin, destination = root / source.lstrip("/"), stage.tree / target.lstrip("/")
    if origin.is_dir():
        shutil.copytree(origin, destination, symlinks=True, dirs_exist_ok=True)
    else:
        destination.mkdir(parents=True, exist_ok=True)
        shutil.copy(origin, destination)


def argument(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """ARG: its default."""
    name, _, value = rest.partition("=")
    stage.arguments[name] = value


def environment(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """ENV."""
    stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(stage.filled(rest)))


def working_directory(stage: Stage, rest: str, stages: dict[str, Stage]) -> None:
    """WORKDIR."""
    stage.directory = rest
    (stage.tree / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)


STEPS: Final[dict[str, Callable[[Stage, str, dict[str, Stage]], None]]] = {
    "RUN": run,
    "COPY": copy,
    "ARG": argument,
    "ENV": environment,
    "WORKDIR": working_directory,
    "USER": lambda stage, rest, _: setattr(stage, "user", rest),
    "ENTRYPOINT": lambda stage, rest, _: setattr(stage, "entrypoint", json.loads(rest)),
    "CMD": lambda stage, rest, _: setattr(stage, "command", json.loads(rest)),
}
