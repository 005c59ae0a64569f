"""A batch of tasks, good and bad, goes through a broker; then every single one is accounted for.

    python examples/demo.py [URL]

URL is memory://demo (the default), amqp://…, redis://… or kombu+sqs://…. The queues get names of their own and are
emptied at the end, so a broker that others use will do. Exit status: 0 when nothing was lost, 1 when a task is not
where it should be (the list says which), 2 when the broker cannot be used.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from qbridge_core import (
    DeadLetter,
    IdleTimeoutError,
    Message,
    QBridgeError,
    QueueClient,
    QueueStats,
    Reason,
    TaskManager,
    connect,
    current_task,
    hookimpl,
)

MAX_RETRIES = 3
TASK_TIMEOUT = 0.5
WORKERS = 8
GIVE_UP_AFTER = 60.0  # seconds in which nothing has ended
MOST_PROBLEMS = 30


@dataclass(frozen=True)
class Kind:
    """A kind of task, and what must become of it.

    Attributes:
        name: how its task ids begin.
        story: what such a task does.
        count: how many there are.
        reason: the reason its dead letter must have; None when it must be done instead.
        attempts: the number of failed runs its dead letter must have.
    """

    name: str
    story: str
    count: int
    reason: Reason | None = None
    attempts: int = 0

    @property
    def destiny(self) -> str:
        """What must become of it, for the table."""
        return dead(self.reason, self.attempts) if self.reason else "done"


def dead(reason: Reason, attempts: int) -> str:
    """A dead letter in a few words."""
    return f"dead: {reason} x{attempts}" if attempts else f"dead: {reason}"


KINDS = (
    Kind("good", "takes a few ms", 500),
    Kind("flaky", "raises once", 60),
    Kind("failing", "raises always", 8, Reason.FAILED, MAX_RETRIES + 1),
    Kind("hanging", f"takes over {TASK_TIMEOUT:g} s", 4, Reason.TIMED_OUT, MAX_RETRIES + 1),
    Kind("malformed", "is not a task", 6, Reason.MALFORMED, 0),
)
NOT_TASKS = (b"not json", b'{"payload": ', b"[1, 2, 3]", b'{"data": "no payload"}', b"\xff\xfe\x00", b"")


@dataclass
class Plan:
    """Everything that is sent."""

    messages: list[Message] = field(default_factory=list)
    kinds: dict[str, Kind] = field(default_factory=dict)  # by task id
    bodies: dict[str, bytes] = field(default_factory=dict)  # by task id

    @classmethod
    def make(cls, kinds: Sequence[Kind] = KINDS) -> Plan:
        """Write all tasks and shuffle them, the same way each time."""
        plan = cls()
        for kind in kinds:
            for number in range(1, kind.count + 1):
                plan._add(kind, f"{kind.name}-{number:03}", number)
        random.Random(1).shuffle(plan.messages)
        return plan

    def _add(self, kind: Kind, task_id: str, number: int) -> None:
        if kind.reason is Reason.MALFORMED:
            message = Message(NOT_TASKS[number % len(NOT_TASKS)], message_id=task_id)
        else:
            payload = {"id": task_id, "kind": kind.name, "seconds": 0.005 + number % 5 * 0.005}
            message, _ = Message.for_task(payload, task_id=task_id)
        self.messages.append(message)
        self.kinds[task_id] = kind
        self.bodies[task_id] = message.body


class Work:
    """The handler, and a record of what it really did."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, payload: dict[str, Any]) -> None:
        """Do one task."""
        task_id, kind = payload["id"], payload["kind"]
        if kind == "hanging":
            time.sleep(TASK_TIMEOUT * 4)
            return
        time.sleep(payload["seconds"])
        if kind == "failing":
            raise ValueError("this never works")
        if kind == "flaky" and current_task().attempt == 1:
            raise ConnectionError("this fails the first time")
        with self._lock:
            self.done[task_id] += 1


class Display:
    """A plugin: TaskManager calls its hooks from the worker threads, and it moves the progress bar."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._bar = progress.add_task("", total=total, counts="")

    @hookimpl
    def qbridge_task_succeeded(self) -> None:
        """A task is done."""
        self._count("done", advance=1)

    @hookimpl
    def qbridge_task_retried(self) -> None:
        """A task will be tried again."""
        self._count("retries")

    @hookimpl
    def qbridge_task_timed_out(self) -> None:
        """A run took too long."""
        self._count("timeouts")

    @hookimpl
    def qbridge_task_dead_lettered(self) -> None:
        """A task was given up."""
        self._count("dead", advance=1)

    def _count(self, what: str, advance: int = 0) -> None:
        with self._lock:
            self._counts[what] += 1
            text = "  ".join(f"{self._counts[name]} {name}" for name in ("done", "retries", "timeouts", "dead"))
        self._progress.update(self._bar, advance=advance, counts=text)


def account(plan: Plan, done: Mapping[str, int], letters: Sequence[DeadLetter], left: QueueStats) -> list[str]:
    """Compare what was sent with what was done and with the dead letters; say what is wrong, [] when nothing is."""
    problems = []
    if left != QueueStats(0, 0, 0):
        waiting = f"{left.ready} ready, {left.in_flight} in flight, {left.delayed} delayed"
        problems.append(f"the queue is not empty: {waiting}; what is missing below may be among them")
    problems += [f"{task_id}: a dead letter that nobody expected" for task_id in _names(letters) - set(plan.kinds)]
    for task_id, kind in plan.kinds.items():
        own = [letter for letter in letters if letter.task_id == task_id]
        if kind.reason is None:
            problems += _check_done(task_id, done.get(task_id, 0), own)
        else:
            problems += _check_dead(task_id, kind, plan.bodies[task_id], done.get(task_id, 0), own)
    return problems


def _names(letters: Sequence[DeadLetter]) -> set[str]:
    return {letter.task_id for letter in letters}


def _check_done(task_id: str, done: int, letters: Sequence[DeadLetter]) -> list[str]:
    # More than once is within the promise (at least once) when a connection breaks; the table shows it.
    problems = [] if done else [f"{task_id}: LOST, it was never done"]
    return problems + [f"{task_id}: is a dead letter ({letter.reason}) and should not be" for letter in letters]


def _check_dead(task_id: str, kind: Kind, body: bytes, done: int, letters: Sequence[DeadLetter]) -> list[str]:
    problems = [f"{task_id}: was done, and should be a dead letter"] if done else []
    if len(letters) != 1:
        problems.append(f"{task_id}: {'LOST, ' if not letters else ''}{len(letters)} dead letters instead of 1")
    for letter in letters:
        if (letter.reason, letter.attempts) != (kind.reason, kind.attempts):
            problems.append(
                f"{task_id}: reason '{letter.reason}' after {letter.attempts} failed runs, "
                f"expected '{kind.reason}' after {kind.attempts}"
            )
        if letter.body != body:
            problems.append(f"{task_id}: the dead letter has another body than the one that was sent")
    return problems


def outcome_table(plan: Plan, done: Mapping[str, int], letters: Sequence[DeadLetter]) -> Table:
    """What was expected and what was seen, one line for each kind of task."""
    table = Table(title="Outcomes", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("tasks", "each one", "expected", "seen"):
        table.add_column(heading)
    for kind in dict.fromkeys(plan.kinds.values()):
        ids = {task_id for task_id, its_kind in plan.kinds.items() if its_kind is kind}
        seen = Counter(dead(letter.reason, letter.attempts) for letter in letters if letter.task_id in ids)
        seen["done"] = sum(1 for task_id in ids if done.get(task_id))
        seen["done more than once"] = sum(1 for task_id in ids if done.get(task_id, 0) > 1)
        table.add_row(
            kind.name,
            kind.story,
            f"{len(ids)} {kind.destiny}",
            ", ".join(f"{count} {what}" for what, count in seen.items() if count) or "nothing",
        )
    return table


def letter_table(letters: Sequence[DeadLetter]) -> Table:
    """The dead letters with their reasons."""
    table = Table(title="Dead letters", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", no_wrap=True)
    table.add_column("reason", no_wrap=True)
    table.add_column("failed runs", justify="right")
    table.add_column("explanation")
    for letter in sorted(letters, key=lambda each: each.task_id):
        table.add_row(letter.task_id, letter.reason, str(letter.attempts), escape(letter.exception_message))
    return table


def process(client: QueueClient, queue: str, dead_letter_queue: str, plan: Plan, work: Work, console: Console) -> None:
    """Send the tasks and work on them until nothing is left or nothing happens any more."""
    client.declare(queue, dead_letter_queue)
    client.publish_many(queue, plan.messages)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("{task.fields[counts]}"), console=console, disable=not console.is_terminal
    ) as progress:
        manager = TaskManager(
            client,
            work,
            input_queue=queue,
            dead_letter_queue=dead_letter_queue,
            max_retries=MAX_RETRIES,
            task_timeout=TASK_TIMEOUT,
            max_workers=WORKERS,
            plugins=[Display(progress, len(plan.messages))],
        )
        work_off(manager)


def work_off(manager: TaskManager) -> None:
    """Work until nothing is left, or nothing has ended for a while: a broker may be slow, and is not stuck then."""
    with manager:
        while True:
            before = manager.report()
            try:
                manager.run_until_idle(timeout=GIVE_UP_AFTER)
            except IdleTimeoutError as exc:
                if exc.report != before:
                    continue
            return  # what was not done is found by the accounting


def read_letters(client: QueueClient, queue: str, limit: int) -> list[DeadLetter]:
    """The dead letters. A broker that cannot show them hands them out: they are taken, as this is the end."""
    if client.capabilities.browse:
        return client.dead_letters(queue, limit=limit)
    letters: list[DeadLetter] = []
    while batch := client.receive(queue, limit, 1.0):
        for each in batch:
            letters.append(DeadLetter.from_headers(each.body, each.headers, each.meta))
            client.ack(each)
    return letters


def show(client: QueueClient, console: Console) -> int:
    """Run the whole demonstration; return the exit status."""
    queue = f"qbridge-demo-{uuid.uuid4().hex[:12]}"
    dead_letter_queue = f"{queue}.dead"
    plan, work = Plan.make(), Work()
    console.print(f"{len(plan.messages)} tasks, {WORKERS} workers, {MAX_RETRIES} retries, {TASK_TIMEOUT:g} s per run")
    try:
        started = time.monotonic()
        process(client, queue, dead_letter_queue, plan, work, console)
        seconds = time.monotonic() - started
        letters = read_letters(client, dead_letter_queue, limit=2 * len(plan.messages))
        problems = account(plan, work.done, letters, client.stats(queue))
    finally:
        with suppress(QBridgeError):
            client.purge(queue)
            client.purge(dead_letter_queue)
    console.print(outcome_table(plan, work.done, letters), letter_table(letters))
    if problems:
        shown = problems[:MOST_PROBLEMS] + ["…"] * (len(problems) > MOST_PROBLEMS)
        console.print(f"NOT in order ({len(problems)}):", *shown, sep="\n", markup=False, highlight=False)
        return 1
    console.print(f"All {len(plan.messages)} tasks are accounted for after {seconds:.1f} s.")
    return 0


def log_to(path: str | None) -> None:
    """Send all log records to a file, or nowhere: a warning on the terminal would spoil the display."""
    handler = logging.FileHandler(path) if path else logging.NullHandler()
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s %(message)s")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line, connect, run."""
    parser = argparse.ArgumentParser(description="Send good and bad tasks through a broker and account for each.")
    parser.add_argument(
        "url", nargs="?", default="memory://demo", metavar="URL", help="memory://demo, amqp://, redis://, kombu+sqs://"
    )
    parser.add_argument("--log", metavar="FILE", help="write QBridge's log there; otherwise nothing is logged")
    options = parser.parse_args(arguments)
    try:
        log_to(options.log)
        with connect(options.url) as client:
            return show(client, Console())
    except (QBridgeError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
