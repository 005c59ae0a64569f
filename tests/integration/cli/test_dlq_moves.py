"""``qbridge dlq replay``, ``edit``, ``delete``, ``export`` and ``import`` as processes: what they do to letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from integration.cli.conftest import OpenTerminal, QBridge, StartQBridge
from qbridge_core import Reason, connect
from support.dead_letters import a_letter, letters, three
from support.wait import wait_for

EDITOR = """
import sys
text = open(sys.argv[1]).read()
old, new = {old!r}, {new!r}
assert not old or old in text, text
open(sys.argv[1], "w").write(text.replace(old, new) if old else new)
"""


def test_letters_are_sent_back(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """One, those that filters choose, or all: after asking, logged, and those that are gone do not keep the others."""
    queue, dead = unique_name, f"{unique_name}.dead"
    with letters(shared_url, queue, *three(queue), *three(queue)) as (client, ids):
        run = ("dlq", "replay", queue)
        assert "which letters?" in qbridge(*run, "--yes", code=2, QBRIDGE_URL=shared_url).stderr
        assert "add --yes" in qbridge(*run, "--all", code=2, QBRIDGE_URL=shared_url).stderr
        assert "not both" in qbridge(*run, ids[0], "--all", code=2, QBRIDGE_URL=shared_url).stderr
        told = qbridge(*run, "--task-id", "mail-bob", "--dry-run", QBRIDGE_URL=shared_url).stdout
        assert told == f"2 letters of {dead} would go to {queue}\n"
        wait_for(lambda: client.stats(dead).ready == 6, 10.0, "letters are missing")
        done = qbridge(*run, ids[0], "--yes", QBRIDGE_URL=shared_url)
        assert done.stdout == f"sent 1 letter of {dead} back\n"
        assert f"sent 1 letter of {dead} back to where they came from, by " in done.stderr
        done = qbridge(*run, ids[0], ids[2], "--yes", code=1, QBRIDGE_URL=shared_url)
        assert done.stdout == f"sent 1 letter of {dead} back\n"
        assert ids[0] in done.stderr
        done = qbridge(*run, "--match", "to=bob", "--max-replays", "1", "--yes", "--json", QBRIDGE_URL=shared_url)
        assert json.loads(done.stdout) == {"queue": dead, "replayed": 2}
        assert (
            "missing" in qbridge(*run, "--all", "--yes", "--target", "missing", code=1, QBRIDGE_URL=shared_url).stderr
        )
        client.declare(other := f"{queue}-other")
        done = qbridge(*run, "--all", "--rate", "1000", "--target", other, "--yes", QBRIDGE_URL=shared_url)
        assert done.stdout == f"sent 2 letters of {dead} back\n"
        assert (client.stats(queue).ready, client.stats(other).ready, client.stats(dead).ready) == (4, 2, 0)
        assert f"no letters in {dead}" in qbridge(*run, "--all", "--yes", QBRIDGE_URL=shared_url).stdout


def test_a_rate_is_kept(start_qbridge: StartQBridge, redis_url: str, unique_name: str) -> None:
    """Of three letters at two a second two go at once, and one a second later."""
    with letters(redis_url, unique_name, *three(unique_name)) as (client, _):
        process = start_qbridge("dlq", "replay", unique_name, "--all", "--rate", "2", "--yes", "--url", redis_url)
        wait_for(lambda: client.stats(unique_name).ready, 60.0)
        assert client.stats(unique_name).ready == 2
        process.communicate(timeout=60)
        assert client.stats(unique_name).ready == 3


def test_an_edited_letter_is_another_message_of_the_same_task(
    qbridge: QBridge, shared_url: str, unique_name: str, tmp_path: Path
) -> None:
    """What the editor made of the payload goes back; what cannot be a task stays, and the text is kept."""
    queue, dead = unique_name, f"{unique_name}.dead"
    editor = tmp_path / "editor.py"
    whole = a_letter(queue, body=b'["ann", 1]')
    with letters(shared_url, queue, a_letter(queue), a_letter(queue, body=b"no JSON \xff"), whole) as (client, ids):

        def edit(letter: str, old: str, new: str, code: int = 0, *more: str) -> subprocess.CompletedProcess[str]:
            editor.write_text(EDITOR.format(old=old, new=new))
            variables = {
                "QBRIDGE_URL": shared_url,
                "EDITOR": f"{sys.executable} {editor}",
                "VISUAL": "",
                "TMPDIR": str(tmp_path),
            }
            return qbridge("dlq", "edit", queue, letter, "--yes", *more, code=code, **variables)

        assert "nothing was changed" in edit(ids[0], "", '{\n  "to": "ann"\n}\n', 1).stderr
        failed = edit(ids[0], "}", "]", 1).stderr
        assert "no JSON" in failed
        (kept,) = tmp_path.glob("qbridge-letter-*.json")
        assert str(kept) in failed
        assert kept.read_text() == '{\n  "to": "ann"\n]\n'
        assert client.stats(dead).ready == 3
        assert "no text in UTF-8 (invalid start byte at byte 8)" in edit(ids[1], "no", "some", 1, "--body").stderr
        assert "that is no task" in edit(ids[2], "ann", "eve", 1).stderr
        assert edit(ids[2], "]", ', "x"]\n', 0, "--body").stdout == f"sent the edited letter to {queue}\n"
        (of_another_format,) = client.receive(queue, 1, 5.0)
        assert of_another_format.body == b'["ann", 1, "x"]'
        client.ack(of_another_format)
        assert edit(ids[0], '"ann"', '"eve"').stdout == f"sent the edited letter to {queue}\n"
        assert edit(ids[1], "no JSON \\xff", '{"payload": 7}').stdout == f"sent the edited letter to {queue}\n"
        edited, mended = client.receive(queue, 2, 5.0)
        assert json.loads(edited.body) == {"payload": {"to": "eve"}, "task_id": "mail-ann"}
        assert dict(edited.headers) == {"tenant": "blue"}
        assert edited.message_id not in (None, "message-ann")
        assert mended.body == b'{"payload": 7}'
        client.ack(edited)
        client.ack(mended)
        assert client.stats(dead).ready == 0


def test_letters_are_deleted(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """Those that are meant, after asking; the others stay."""
    queue, dead = unique_name, f"{unique_name}.dead"
    with letters(shared_url, queue, *three(queue)) as (client, ids):
        run = ("dlq", "delete", queue)
        assert "add --yes" in qbridge(*run, ids[0], code=2, QBRIDGE_URL=shared_url).stderr
        assert (
            qbridge(*run, "--all", "--dry-run", QBRIDGE_URL=shared_url).stdout == f"would delete 3 letters of {dead}\n"
        )
        done = qbridge(*run, "--match", 'to="bob"', "--yes", QBRIDGE_URL=shared_url)
        assert done.stdout == f"deleted 1 letter of {dead}\n"
        assert f"deleted 1 letter of {dead}, by " in done.stderr
        assert [letter.id for letter in client.dead_letters(dead)] == [ids[0], ids[2]]
        assert ids[1] in qbridge(*run, ids[1], ids[0], "--yes", code=1, QBRIDGE_URL=shared_url).stderr
        assert [letter.id for letter in client.dead_letters(dead)] == [ids[2]]


def test_on_a_terminal_it_asks(open_terminal: OpenTerminal, redis_url: str, unique_name: str) -> None:
    """No leaves everything as it is, yes does it."""
    with letters(redis_url, unique_name, *three(unique_name)) as (client, _):
        for answer, left in (("n", 3), ("y", 0)):
            terminal = open_terminal("dlq", "delete", unique_name, "--all", QBRIDGE_URL=redis_url)
            terminal.wait_for(f"Delete 3 letters of {unique_name}.dead?", "[y/N]")
            terminal.type(f"{answer}\n")
            assert terminal.ended() == (1 if left else 0)
            assert client.stats(f"{unique_name}.dead").ready == left


def test_letters_go_through_files_to_other_brokers(
    qbridge: QBridge, amqp_url: str, redis_url: str, unique_name: str, tmp_path: Path
) -> None:
    """From RabbitMQ to Redis and back a letter loses nothing, and is sent back as the original would be."""
    queue, dead = unique_name, f"{unique_name}.dead"
    given = [
        a_letter(queue),
        a_letter(queue, body=b"\x00\xff", reason=Reason.MALFORMED, headers={}),
        a_letter(queue, "bob"),
    ]
    with letters(amqp_url, queue, *given) as (rabbitmq, _), letters(redis_url, queue) as (redis, _):
        file = tmp_path / "letters.jsonl"
        done = qbridge("dlq", "export", queue, "-o", str(file), QBRIDGE_URL=amqp_url)
        assert f"exported 3 letters of {dead}" in done.stderr
        assert (
            "is there already" in qbridge("dlq", "export", queue, "-o", str(file), code=2, QBRIDGE_URL=amqp_url).stderr
        )
        done = qbridge("dlq", "import", queue, str(file), QBRIDGE_URL=redis_url)
        assert done.stdout == f"imported 3 letters into {dead}\n"
        assert f"imported 3 letters into {dead}, by " in done.stderr
        lines = qbridge("dlq", "export", queue, "--reason", "failed", QBRIDGE_URL=redis_url).stdout
        assert qbridge("dlq", "delete", queue, "--all", "--yes", QBRIDGE_URL=amqp_url)
        done = qbridge("dlq", "import", queue, stdin=lines, QBRIDGE_URL=amqp_url)
        kept = [given[0], given[2]]
        assert [replace(letter, id="") for letter in rabbitmq.dead_letters(dead)] == kept
        assert [replace(letter, id="") for letter in redis.dead_letters(dead)] == given
        assert rabbitmq.replay(dead) == 2
        back = rabbitmq.receive(queue, 2, 5.0)
        assert [(one.body, dict(one.headers), one.message_id) for one in back] == [
            (letter.body, letter.headers, letter.message_id) for letter in kept
        ]


def test_a_line_that_is_no_letter_ends_an_import(qbridge: QBridge, redis_url: str, unique_name: str) -> None:
    """What stands before it is imported, it is named, and --skip goes on behind that."""
    queue = unique_name
    with letters(redis_url, queue, a_letter(queue), a_letter(queue, "bob")) as (client, _):
        first, second = qbridge("dlq", "export", queue, QBRIDGE_URL=redis_url).stdout.splitlines()
        lines = [first, second, second.replace('"failed"', '"broken"')]
        done = qbridge("dlq", "import", queue, stdin="\n".join(lines), code=1, QBRIDGE_URL=redis_url)
        assert "line 3 is no letter: reason" in done.stderr
        assert "2 letters imported; once that is mended go on with --skip 2" in done.stderr
        assert client.stats(f"{queue}.dead").ready == 4
        lines[2] = second
        qbridge("dlq", "import", queue, "--skip", "2", stdin="\n".join(lines), QBRIDGE_URL=redis_url)
        assert client.stats(f"{queue}.dead").ready == 5
        assert "declare" in qbridge("dlq", "import", "missing", stdin=first, code=1, QBRIDGE_URL=redis_url).stderr


@pytest.mark.faults
def test_a_killed_replay_of_many_letters_is_started_again(
    qbridge: QBridge, start_qbridge: StartQBridge, shared_url: str, unique_name: str
) -> None:
    """All letters go back once, one of them twice at most."""
    dead, count = f"{unique_name}.dead", int(os.environ.get("QBRIDGE_TEST_LETTERS", "600"))
    with connect(shared_url) as client:
        client.declare(unique_name, dead)
        for start in range(0, count, 200):
            some = range(start, min(start + 200, count))
            client.import_letters(dead, [a_letter(unique_name, str(number)) for number in some])
        process = start_qbridge("dlq", "replay", unique_name, "--all", "--yes", "--url", shared_url)
        wait_for(lambda: client.stats(unique_name).ready >= count // 4, 60.0, "nothing is sent back")
        process.kill()
        wait_for(lambda: client.stats(dead).ready + client.stats(unique_name).ready >= count, 30.0)
        qbridge("dlq", "replay", unique_name, "--all", "--yes", QBRIDGE_URL=shared_url)
        assert client.stats(dead).ready == 0
        back: list[bytes] = []
        while deliveries := client.receive(unique_name, 500, 1.0):
            back += [delivery.body for delivery in deliveries]
            for delivery in deliveries:
                client.ack(delivery)
        assert len(set(back)) == count
        assert len(back) <= count + 1
