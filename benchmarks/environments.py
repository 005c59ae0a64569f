"""An environment for each library, since their dependencies exclude one another: ``.bench-venv/<name>``.

QBridge and the bare clients have one too, with nothing in it that they do not need, for some libraries import what they
find: redis-py 8 loads the SDK of OpenTelemetry, which the tests have installed, and takes a third more time for that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OWN, OWN_SQS = "qbridge", "qbridge-sqs"
PLOTS = "plots"
# Ranges keep the programs in benchmarks/peers working; the exact versions are part of the output.
REQUIREMENTS = {
    OWN: [
        *("--editable", "./qbridge_core[pydantic]", "--editable", "./qbridge_memory"),
        *("--editable", "./qbridge_rabbitmq", "--editable", "./qbridge_redis"),
    ],
    OWN_SQS: ["--editable", "./qbridge_core", "--editable", "./qbridge_kombu"],
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


@dataclass(frozen=True)
class Environments:
    """Where the libraries are.

    Attributes:
        directory: has the environments, which are made when they are first asked for.
        here: QBridge and the bare clients are measured in the environment that runs the benchmark.
    """

    directory: Path
    here: bool = False

    def python(self, name: str) -> str:
        """The interpreter of an environment, which is made when it is missing or its requirements have changed.

        Raises:
            InstallationError: it cannot be made; the text is the last line of pip.
        """
        if self.here and name in (OWN, OWN_SQS):
            return sys.executable
        home = self.directory / name
        python, stamp = home / "bin" / "python", home / "requirements.json"
        wanted = json.dumps([REQUIREMENTS[name], *_own_requirements(name)])
        if not stamp.exists() or stamp.read_text() != wanted:
            venv.create(home, with_pip=True, clear=True)
            command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            command += REQUIREMENTS[name]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise InstallationError((done.stderr.strip().splitlines() or ["pip failed"])[-1])
            stamp.write_text(wanted)
        return str(python)


def _own_requirements(name: str) -> list[str]:
    """What the packages of this checkout that an environment has say of themselves."""
    folders = [each.partition("[")[0] for each in REQUIREMENTS[name] if each.startswith("./")]
    return [(ROOT / folder / "pyproject.toml").read_text() for folder in folders]


def versions(python: str) -> dict[str, str]:
    """The versions of what matters in an environment."""
    done = subprocess.run([python, "-c", _LIST], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return {name: found[name] for name in SHOWN if name in found}
