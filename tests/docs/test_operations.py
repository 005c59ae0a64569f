"""The incident of docs/operations.md happens, and each command of the page prints what the page shows."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from qbridge_core import DeadLetter, QueueClient, TaskManager, connect
from support.pages import DOCS

PAGE: Final = (DOCS / "operations.md").read_text(encoding="utf-8")
STEP: Final = re.compile(r"^```console\n(?P<console>.*?)^```$|^<!-- (?P<event>[^>]+) -->$", re.DOTALL | re.MULTILINE)
CODE: Final = re.compile(r"^```python\n(# shop.py\n.*?)^```$", re.DOTALL | re.MULTILINE)
AN_ID: Final = re.compile(r"\b\d{13}-\d+\b")
EDITOR: Final = """
import sys
text = open(sys.argv[1]).read()
open(sys.argv[1], "w").write(text.replace("{", '{"text": "Your parcel has arrived.", '))
"""


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails, as far as a client of SMTP can see."""

    daemon_threads = True
    allow_reuse_address = True

    class Handler(socketserver.StreamRequestHandler):
        """One connection."""

        def handle(self) -> None:
            """Answer each command."""
            self.wfile.write(b"220 ready\r\n")
            for line in self.rfile:
                command = line[:4].upper().strip()
                if command == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    while self.rfile.readline().rstrip() != b".":
                        pass
                    assert isinstance(self.server, MailServer)
                    self.server.mails += 1
                self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler, bind_and_activate=False)
        self.server_bind()  # the port is known, and nobody listens
        self.mails = 0

    def start(self) -> None:
        """Be there."""
        self.server_activate()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Incident:
    """The story of the page: a queue, a mail server, and a shell."""

    def __init__(self, client: QueueClient, queue: str, server: MailServer, directory: Path, url: str) -> None:
        self.client = client
        self.queue = queue
        self.server = server
        self.directory = directory
        self._ids: dict[str, str] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("QBRIDGE_")},
            "MAIL_HOST": "127.0.0.1",
            "MAIL_PORT": str(server.server_address[1]),
            "EDITOR": f"{sys.executable} {directory / 'editor.py'}",
            "VISUAL": "",
            "QBRIDGE_URL": url,
        }
        os.environ.update({name: self._environment[name] for name in ("MAIL_HOST", "MAIL_PORT")})
        (directory / "shop.py").write_text("".join(CODE.findall(PAGE)))
        (directory / "editor.py").write_text(EDITOR)
        spec = importlib.util.spec_from_file_location("shop", directory / "shop.py")
        assert spec
        assert spec.loader
        shop = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(shop)
        self.handler: Any = shop.send_email

    def happen(self) -> None:
        """The outage: the handler fails for real, and the letters of an hour are put into the queue."""
        text = "Your parcel is on its way."
        letters = [
            *self._letters([{"to": f"customer{n}@example.org", "text": text} for n in range(40)], 0, 3, 90),
            *self._letters([{"to": f"customer{n}@example.org"} for n in (40, 41)], 40, 0, 1_860),
        ]
        self.client.declare(self.queue, f"{self.queue}.dead")
        self.client.import_letters(f"{self.queue}.dead", letters)

    def _letters(self, payloads: list[dict[str, str]], first: int, retries: int, apart: float) -> Iterator[DeadLetter]:
        began = datetime(2026, 11, 30, 8, 0 if retries else 10, tzinfo=UTC)
        with connect("memory://") as memory:
            manager = TaskManager(memory, self.handler, "emails", "emails.dead", max_retries=retries, max_workers=1)
            memory.declare("emails", "emails.dead")
            for number, payload in enumerate(payloads, first):
                memory.send("emails", payload, task_id=f"mail-{number}")
            manager.run_until_idle()
            for number, letter in enumerate(sorted(memory.dead_letters("emails.dead"), key=number_of)):
                yield self._of_that_day(letter, began + timedelta(seconds=number * apart))

    def _of_that_day(self, letter: DeadLetter, sent: datetime) -> DeadLetter:
        """The letter as it would have come then, from the worker of the page."""
        times = [sent + timedelta(seconds=seconds) for seconds in (0, 10, 20, 40)]
        runs = zip(letter.history, times, strict=False)
        return replace(
            letter,
            history=tuple(replace(run, began_at=at, worker="web-1:4711") for run, at in runs),
            worker="web-1:4711",
            source_queue=self.queue,
            message_id=letter.task_id,
            sent_at=sent,
            first_failed_at=sent.timestamp(),
            last_failed_at=times[len(letter.history) - 1].timestamp(),
            traceback=letter.traceback.replace(str(self.directory), "/srv/shop"),
        )

    def step(self, event: str) -> None:
        """What happens between two commands."""
        if event == "the mail server is back":
            self.server.start()
        elif event == "the worker runs":
            report = TaskManager(self.client, self.handler, self.queue, f"{self.queue}.dead").run_until_idle()
            assert (report.succeeded, self.server.mails) == (40, 41)
        else:
            assert event == "the editor adds a text"

    def run(self, command: str, expected: str) -> None:
        """Run a line of the shell and compare what it prints, both streams together."""
        if command.startswith("export "):
            return
        program, *args = shlex.split(self._real(command))
        assert program == "qbridge"
        done = subprocess.run(
            [sys.executable, "-m", "qbridge_core", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=self.directory, env=self._environment, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        shown = done.stdout.replace(self.queue, "emails")
        for theirs, ours in zip(AN_ID.findall(expected), AN_ID.findall(shown), strict=False):
            self._ids.setdefault(theirs, ours)
        wanted = self._real(expected, queue=False)
        assert matches(wanted, shown), f"$ {command}\n{shown}\nand not\n{wanted}"

    def _real(self, text: str, *, queue: bool = True) -> str:
        """What the page says, with the names and ids of this test."""
        for theirs, ours in self._ids.items():
            text = text.replace(theirs, ours)
        return re.sub(r"\bemails\b", self.queue, text) if queue else text


def number_of(letter: DeadLetter) -> int:
    """The number of a task."""
    return int(letter.task_id.partition("-")[2])


def matches(expected: str, shown: str) -> bool:
    """Whether a command prints what the page shows, where a line of dots stands for any lines."""
    before, dots, after = normalized(expected).partition("\n  …\n")
    found = normalized(shown)
    return found.startswith(before) and found.endswith(after) if dots else found == before


def normalized(text: str) -> str:
    """Without what differs from machine to machine: who did it when, and how wide a column is."""
    lines = (re.sub(r" {2,}", "  ", line.rstrip()) for line in text.rstrip("\n").split("\n"))
    audit = (re.sub(r"^[\d:, -]+ qbridge.audit (.+), by .+ on .+$", r"audit: \1", line) for line in lines)
    return "\n".join(re.sub(r"\[Errno \d+\]|after \d+ ms", "…", line) for line in audit)


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """A mail server that is down."""
    server = MailServer()
    try:
        yield server
    finally:
        if server.mails:
            server.shutdown()
        server.server_close()


def test_the_incident_of_the_page_happens(redis_url: str, unique_name: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Each command of the page prints what it shows, in the order of the page."""
    for name in ("MAIL_HOST", "MAIL_PORT"):
        monkeypatch.setenv(name, "")
    commands = 0
    with mail_server() as server, connect(redis_url) as client:
        incident = Incident(client, unique_name, server, tmp_path, redis_url)
        incident.happen()
        for found in STEP.finditer(PAGE):
            if found["event"]:
                incident.step(found["event"])
                continue
            for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", found["console"], re.MULTILINE):
                incident.run(command, output)
                commands += 1
    assert commands >= 10
