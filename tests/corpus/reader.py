"""Puts a recording into a server of today, and lets a handler of today read it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corpus import rabbitmq_state, redis_state, texts
from corpus.states import FAMILY
from qbridge_core import TaskContext
from support.handlers import note, notes

_HERE: Final = Path(__file__).parent
VERSIONS: Final = sorted(path.name for path in _HERE.iterdir() if path.name[0].isdigit())


@dataclass
class Recording:
    """What one version left on one kind of broker, and the server that it is put into.

    Attributes:
        kind: ``quorum``, ``classic`` or ``redis``.
        url: the server's, for clients.
        token: eight characters that no other test uses.
    """

    version: str
    kind: str
    url: str
    token: str

    def __post_init__(self) -> None:
        name = "redis" if self.kind == "redis" else f"rabbitmq-{self.kind}"
        self._record = texts.read(_HERE / self.version / f"{name}.json")

    def restore(self, *states: str) -> str:
        """Put the queues of these states and their dead letters into the server; return the first queue."""
        into: Callable[..., None] = redis_state.restore if self.kind == "redis" else rabbitmq_state.restore
        names = [FAMILY + state for state in states]
        into(self.url.split("?")[0], self._record, (*names, *(f"{name}.dead" for name in names)), self.token)
        return self.name(states[0])

    def name(self, state: str) -> str:
        """The queue of a state, under its name in this test."""
        return (FAMILY + state).replace(texts.RECORDED_AS.decode(), self.token)

    def bodies(self, state: str) -> list[bytes]:
        """The bodies that were recorded for a queue."""
        return [texts.load(row["body"]) for row in self._rows(state)]

    def headers(self, state: str, task_id: str) -> dict[str, Any]:
        """What was recorded beside the body of a task, QBridge's own names included."""
        (found,) = (row["headers"] for row in self._rows(state) if row["headers"].get("x-qbridge-task-id") == task_id)
        return dict(found)

    def crashes(self, state: str) -> dict[str, int]:
        """How many workers each task of a side queue has killed, the one with which it became a suspect included."""
        if self.kind != "redis":
            rows = self._record["messages"][FAMILY + state]
            return {
                row["headers"]["x-qbridge-task-id"]: row["headers"].get("x-qbridge-crashes", 1) + row["redelivered"]
                for row in rows
            }
        stream = self._record["keys"][FAMILY + state]
        held = {entry_id: times for entry_id, _, _, times in stream["groups"][0]["pending"]}
        names = {entry_id: dict(zip(fields[::2], fields[1::2], strict=True)) for entry_id, fields in stream["entries"]}
        return {fields["x-qbridge-task-id"]: 1 + held.get(entry_id, 0) for entry_id, fields in names.items()}

    def _rows(self, state: str) -> list[dict[str, Any]]:
        if self.kind != "redis":
            return list(self._record["messages"].get(FAMILY + state, []))
        rows = []
        for _, fields in self._record["keys"][FAMILY + state]["entries"]:
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            rows.append({"body": pairs.pop("body"), "headers": pairs})
        return rows


class Reader:
    """A handler that notes what it got, in whatever process it runs, and fails when it was told to."""

    def __init__(self, path: Path, *, fails: bool = False) -> None:
        self._path = str(path)
        self._fails = fails

    def __call__(self, payload: Any, task: TaskContext) -> None:
        """Note the task."""
        headers = {name: repr(value) for name, value in task.headers.items()}
        seen = {"task_id": task.task_id, "attempt": task.attempt, "headers": headers, "payload": payload}
        note(self._path, json.dumps(seen | {"pid": os.getpid()}))
        if self._fails:
            raise ValueError("not today either")

    def runs(self) -> list[dict[str, Any]]:
        """What was noted, in order."""
        return [json.loads(line) for line in notes(self._path)]
