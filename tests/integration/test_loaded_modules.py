"""What a worker keeps in its memory of the standard library, beside what the driver of its broker has there already."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import urlsplit

HEAVY = {"difflib", "email", "hashlib", "importlib.metadata", "pathlib", "shlex", "tempfile", "zipfile"}
BESIDE = {"pika": HEAVY | {"encodings.idna"}, "redis": HEAVY}  # redis-py looks names up as text, which needs that codec
PROGRAM = """
import sys
__import__({driver!r})
before = set(sys.modules)
from qbridge_core import TaskManager, connect
def handler(payload):
    if payload == "fails":
        raise ValueError(payload)
with connect({url!r}) as client, TaskManager(client, handler, {queue!r}, {queue!r} + ".dead", max_retries=1) as manager:
    for payload in ("succeeds", "fails"):
        client.send({queue!r}, payload)
    report = manager.run_until_idle(30.0)
    print(*({heavy!r} & (set(sys.modules) - before)))
"""


def test_a_worker_loads_no_large_part_of_the_standard_library(shared_url: str, unique_name: str) -> None:
    """One that has run a task, repeated another and dead-lettered it has none of what only rare needs load: 3 MiB."""
    driver = "pika" if urlsplit(shared_url).scheme == "amqp" else "redis"
    code = PROGRAM.format(driver=driver, url=shared_url, queue=unique_name, heavy=BESIDE[driver])
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == []
