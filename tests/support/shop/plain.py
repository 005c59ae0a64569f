"""An app without pydantic."""

from __future__ import annotations

import os
import sys

from qbridge_core import App, TaskContext, current_task

app = App(on_unknown=0)
app.queue("images", executor="process", max_workers=2)


@app.task
def resize(width: int) -> None:
    """Print it."""
    sys.stdout.write(f"resized {width}\n")


@app.task(queue="images", max_retries=1, dead_letter_on=[LookupError])
def draw(task: TaskContext, path: str) -> None:
    """In a child process: fail as the path says."""
    if path == "missing":
        raise LookupError(f"{task.attempt} {os.getpid()}")
    if path == "broken":
        raise ValueError(f"{task.attempt} {os.getpid()}")


@app.task(queue="images", max_retries=0, task_timeout=0.5)
async def upload(path: str) -> None:
    """A coroutine in a child process."""
    raise ValueError(f"{current_task().queue} {os.getpid()}")
