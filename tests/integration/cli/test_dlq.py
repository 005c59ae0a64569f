"""``qbridge dlq list``, ``groups``, ``show`` and ``debug`` as processes: what they print; nothing is taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from integration.cli.conftest import OpenTerminal, QBridge
from support.dead_letters import a_letter, letters, three
from support.wait import wait_for

SHOWN = """\
letter {id}
  task          mail-ann
  message id    message-ann
  reason        failed
  exception     shop.Refused: mx1 refuses
  source queue  {queue}
  first failed  2023-11-14 22:13:20
  last failed   2023-11-14 22:14:20
  attempts      4
  crashes       1
  worker        host:1

history
  It ran 5 times.
  A run that fails is retried as often as the task manager allows: it failed 4 times.
  A message whose worker process dies comes back to the next worker: that happened once.
  It failed first at 2023-11-14 22:13:20 UTC.
  It is a letter since 2023-11-14 22:14:20 UTC because its last run failed, in queue {queue}, on host:1.

headers
  tenant: blue

traceback
  Traceback (most recent call last):
    File "/srv/app/shop/mail.py", line 12, in send
      raise Refused(host)
  shop.Refused: mx1 refuses

payload
  {{
    "to": "ann"
  }}

body (49 bytes)
  {{"payload": {{"to": "ann"}}, "task_id": "mail-ann"}}
"""
JOBS = """
from qbridge_core import TaskManager, connect, current_task

def send(payload):
    task = current_task()
    print("sending", payload["to"], task.task_id, task.queue, task.attempt)
    if payload["to"] == "ann":
        raise ConnectionError("no route\\x1b[31m")

async def send_later(payload):
    send(payload)

def build():
    return TaskManager(client, send_later, "mails", "mails.dead")

client = connect("memory://")
client.connect()
"""


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, which are divided by two spaces at least."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_letters_are_listed_and_grouped(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """As tables for people and as JSON for programs; nothing is taken."""
    queue, dead = unique_name, f"{unique_name}.dead"
    with letters(shared_url, queue, *three(queue)) as (client, ids):
        listed = rows(qbridge("dlq", "list", queue, QBRIDGE_URL=shared_url).stdout)
        assert listed[0] == ["id", "failed at (UTC)", "reason", "error", "runs", "task"]
        assert listed[2] == [ids[1], "2023-11-14 22:15:00", "failed", "shop.Refused: mx1 refuses", "4", "mail-bob"]
        assert len(listed) == 4
        done = qbridge("dlq", "list", dead, "--limit", "2", "--json", QBRIDGE_URL=shared_url)
        found = json.loads(done.stdout)
        assert [each["id"] for each in found] == ids[:2]
        assert found[1] == {
            "id": ids[1], "task_id": "mail-bob", "reason": "failed", "exception_type": "shop.Refused",
            "exception_message": "mx1 refuses", "place": "shop/mail.py:30 send", "attempts": 4, "crashes": 0,
            "replays": 1, "first_failed_at": "2023-11-14T22:13:20.000Z", "last_failed_at": "2023-11-14T22:15:00.000Z",
            "sent_at": None,
            "source_queue": queue, "worker": "host:1", "bytes": len(a_letter(queue, "bob").body),
        }  # fmt: skip
        for limit, said in (("2", f"only 2 letters shown; {dead} holds 3 (--limit 0 shows all)\n"), ("3", "")):
            assert qbridge("dlq", "list", dead, "--limit", limit, QBRIDGE_URL=shared_url).stderr == said
        filters = ("--exception", "Refused", "--match", "to=cid", "--since", "2023-11-14T22:14:00", "--source", queue)
        done = qbridge("dlq", "list", queue, *filters, "--json", QBRIDGE_URL=shared_url)
        assert [each["id"] for each in json.loads(done.stdout)] == [ids[2]]
        grouped = rows(qbridge("dlq", "groups", queue, QBRIDGE_URL=shared_url).stdout)
        assert grouped == [
            ["letters", "exception", "raised in", "first seen (UTC)", "last seen (UTC)", "example"],
            ["2", "shop.Refused", "shop/mail.py:12 send", "2023-11-14 22:13:20", "2023-11-14 22:14:20", ids[2]],
            ["1", "shop.Refused", "shop/mail.py:30 send", "2023-11-14 22:13:20", "2023-11-14 22:15:00", ids[1]],
        ]
        (group,) = json.loads(
            qbridge("dlq", "groups", queue, "--task-id", "mail-bob", "--json", QBRIDGE_URL=shared_url).stdout
        )
        assert group == {
            "exception_type": "shop.Refused", "place": "shop/mail.py:30 send", "count": 1, "replayed": 1,
            "first_seen": "2023-11-14T22:13:20.000Z", "last_seen": "2023-11-14T22:15:00.000Z", "example": ids[1],
            "example_message": "mx1 refuses",
        }  # fmt: skip
        wait_for(lambda: client.stats(dead).ready == 3, 10.0, "letters are missing")


def test_a_letter_shows_all_that_it_says(
    qbridge: QBridge, open_terminal: OpenTerminal, shared_url: str, unique_name: str
) -> None:
    """Payload, bytes, headers, traceback, history; hostile content does nothing, and the bytes can be had, too."""
    queue = unique_name
    hostile = a_letter(queue, body=b"\x1b]0;owned\x07[red]\xff", exception_message="\x1b[2J[bold]", task_id="[i]\x9b")
    with letters(shared_url, queue, a_letter(queue, crashes=1), hostile) as (_, ids):
        done = qbridge("dlq", "show", queue, ids[0], QBRIDGE_URL=shared_url)
        assert done.stdout == SHOWN.format(id=ids[0], queue=queue)
        for command in (("show", queue, ids[1]), ("list", queue)):
            shown = qbridge("dlq", *command, QBRIDGE_URL=shared_url).stdout
            assert all(line.isprintable() for line in shown.splitlines())
        (whole,) = json.loads(qbridge("dlq", "show", queue, ids[1], "--json", QBRIDGE_URL=shared_url).stdout)
        assert whole["body_base64"]
        terminal = open_terminal("dlq", "show", queue, ids[1], QBRIDGE_URL=shared_url)
        assert terminal.ended() == 0
        assert b"\x1b" not in terminal.written
        raw = [sys.executable, "-m", "qbridge_core", "dlq", "show", queue, ids[1], "--raw", "--url", shared_url]
        assert subprocess.run(raw, capture_output=True, timeout=60, check=True).stdout == hostile.body
        done = qbridge("dlq", "show", queue, ids[0], "no such id", code=1, QBRIDGE_URL=shared_url)
        assert "mail-ann" in done.stdout
        assert "no such id" in done.stderr


def test_a_handler_runs_on_a_letter_here(qbridge: QBridge, redis_url: str, unique_name: str, tmp_path: Path) -> None:
    """With the context of a task, in a debugger if wanted; the letter and the queue stay as they are."""
    queue = unique_name
    (tmp_path / "jobs.py").write_text(JOBS)
    with letters(redis_url, queue, a_letter(queue), a_letter(queue, "bob")) as (client, ids):
        before = client.dead_letters(f"{queue}.dead")
        run = ("dlq", "debug", queue)
        assert "add --yes" in qbridge(*run, ids[0], "--target", "jobs:send", code=2, QBRIDGE_URL=redis_url).stderr
        done = qbridge(*run, ids[0], "--target", "jobs:send", "--yes", code=1, QBRIDGE_URL=redis_url)
        assert done.stdout == f"sending ann mail-ann {queue} 1\n"
        assert "jobs.py" in done.stderr
        assert "ConnectionError: no route\\x1b[31m" in done.stderr
        assert "qbridge_core" not in done.stderr
        done = qbridge(*run, ids[1], "--target", "jobs:build", "--yes", QBRIDGE_URL=redis_url)
        assert (
            done.stdout == f"sending bob mail-bob {queue} 1\nthe handler returned None; the letter stays where it is\n"
        )
        done = qbridge(
            *run,
            ids[0],
            "--target",
            "jobs:send",
            "--yes",
            "--pdb",
            stdin="p payload\nq\n",
            code=1,
            QBRIDGE_URL=redis_url,
        )
        assert "(Pdb) {'to': 'ann'}" in done.stdout
        for target, said in (
            ("jobs:nothing", "nothing"),
            ("nojobs:send", "nojobs"),
            ("jobs", "module:name"),
            ("jobs:JOBS", "JOBS"),
        ):
            assert said in qbridge(*run, ids[0], "--target", target, "--yes", code=2, QBRIDGE_URL=redis_url).stderr
        assert client.dead_letters(f"{queue}.dead") == before
        assert client.stats(queue).ready == 0


def test_slips_are_told_in_a_line(qbridge: QBridge, redis_url: str, unique_name: str, tmp_path: Path) -> None:
    """A wrong queue, an unknown id, a time or filter that makes no sense, a broker that cannot: what to do instead."""
    with letters(redis_url, unique_name) as (client, _):
        client.send(unique_name, 1)
        folder = f"kombu+filesystem://{tmp_path}?allow_loss=true"
        for args, code, said in (
            (("list", "no-such-queue"), 0, "name that with --dead"),
            (("show", unique_name, "1-1"), 1, "has no letter 1-1"),
            (("list", unique_name, "--since", "noon"), 2, "is no time"),
            (("replay", "q", "1", "--yes", "--url", folder), 1, "cannot take single letters from 'q.dead'"),
            (("list", "q", "--url", folder), 0, "no letters in q.dead"),
        ):
            done = qbridge("dlq", *args, code=code, QBRIDGE_URL=redis_url)
            assert said in done.stderr + (done.stdout if code == 0 else ""), args
            assert "Traceback" not in done.stderr + done.stdout
