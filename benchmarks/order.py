"""What a process of the benchmark is told, and what it reports; standard library only, every peer imports it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Order:
    """One job for one process.

    Attributes:
        role: "fill" the queue, "publish" against the clock, "tick" (one message each 10 ms), "work", or "both" (fill
            and work in one process).
        url: the broker.
        queue: its name, new for each measurement.
        report: the file to write the result to.
        count: how many messages.
        mode: what the handler does: "noop", "bodies" (the bare clients read the JSON too), "models" (a pydantic
            model is made of each message), "latency", "mixed",
            "waiting", "shared" or "processes"; see `benchmarks.meter`.
        threads: of the worker, or its processes; for coroutines how many run at once.
        body: bytes of padding in each payload.
        variant: which of a program's forms.
        many: publish with the program's best way for many messages.
        batch: how many messages QBridge confirms in one call then.
        senders: how many threads or coroutines publish at the same time, one message after the other.
    """

    role: str
    url: str
    queue: str
    report: str
    count: int = 1
    mode: str = "noop"
    threads: int = 10
    body: int = 0
    variant: str = ""
    many: bool = False
    batch: int = 10_000
    senders: int = 1

    @classmethod
    def read(cls, text: str) -> Order:
        """From the command line."""
        return cls(**json.loads(text))

    def dump(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))

    def but(self, **changes: Any) -> Order:
        """A copy with changes."""
        return replace(self, **changes)

    def at_once(self, usual: int) -> int:
        """How many coroutines of a worker run at once: as many as the measurement says, or the usual number."""
        return self.threads if self.mode in ("mixed", "waiting") else usual

    @property
    def first_mark(self) -> str:
        """The file that a worker creates at its first task."""
        return f"{self.report}-first"

    @property
    def go_mark(self) -> str:
        """The file that lets the workers of a queue begin together."""
        return str(Path(self.report).with_name(f"{self.queue}-go"))

    @property
    def tally(self) -> str:
        """What the names of the files begin with in which the processes of a worker count."""
        return f"{self.report}-tally-"

    def write_report(self, result: dict[str, float]) -> None:
        """Write the result; the file appears at once and whole."""
        draft = Path(f"{self.report}.{os.getpid()}")
        draft.write_text(json.dumps(result | {"pid": os.getpid()}))
        draft.rename(self.report)
