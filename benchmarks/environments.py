"""An environment for each peer, since their dependencies exclude one another: ``.bench-venv/<name>``."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN = "qbridge"  # the environment that runs the benchmark has QBridge, pika and redis-py
PLOTS = "plots"
# Ranges keep the programs in benchmarks/peers working; the exact versions are part of the output.
REQUIREMENTS = {
    "celery": ["celery[redis]>=5.4,<6", "hiredis"],
    "celery-sqs": ["celery[sqs]>=5.4,<6"],  # apart, since boto3 takes memory
    "dramatiq": ["dramatiq[rabbitmq,redis]>=1.17,<3", "hiredis"],
    "taskiq": ["taskiq>=0.11,<1", "taskiq-aio-pika>=0.4,<1", "taskiq-redis>=1,<2", "hiredis", "uvloop"],
    "faststream": ["faststream[rabbit,redis]>=0.5,<1", "hiredis", "uvloop"],
    "huey": ["huey>=2.5,<4", "redis[hiredis]"],
    "arq": ["arq>=0.26,<1", "hiredis", "uvloop"],
    "saq": ["saq[redis,hiredis]>=0.20,<1", "typing_extensions", "uvloop"],
    "streaq": ["streaq>=5,<8", "uvloop"],
    PLOTS: ["matplotlib>=3.8,<4"],
}
SHOWN = (
    *("qbridge-core", "pika", "redis", "hiredis", "uvloop", "coredis", "aio-pika", "kombu", "amqp", "boto3"),
    *("pycurl", "moto"),
    *("celery", "dramatiq", "taskiq", "taskiq-aio-pika", "taskiq-redis", "faststream", "huey", "arq", "saq", "streaq"),
)

_LIST = (
    "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


class InstallationError(Exception):
    """The packages of a peer could not be installed."""


def python_of(name: str, directory: Path) -> str:
    """The interpreter of an environment, which is made when it is missing or its requirements have changed.

    Raises:
        InstallationError: it cannot be made; the text is the last line of pip.
    """
    if name == OWN:
        return sys.executable
    home = directory / name
    python, stamp = home / "bin" / "python", home / "requirements.json"
    wanted = json.dumps(REQUIREMENTS[name])
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(home, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise InstallationError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        stamp.write_text(wanted)
    return str(python)


def versions(python: str) -> dict[str, str]:
    """The versions of what matters in an environment."""
    done = subprocess.run([python, "-c", _LIST], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in SHOWN if name in found}
