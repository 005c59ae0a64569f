"""What all commands have in common: settings, errors, exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from integration.cli.conftest import QBridge
from qbridge_core import connect

NOBODY = "redis://user:secret@127.0.0.1:1/0"


def test_what_is_wrong_is_said_in_a_line(qbridge: QBridge) -> None:
    """Wrong usage is exit code 2, with what to do; nothing shows a traceback."""
    for args, said in (
        (("declare", "mails"), "Give --url, or set QBRIDGE_URL"),
        (("declare", "--url", "nonsense", "mails"), "looks like scheme://"),
        (("declare", "--url", "memory://", "mails", "--dead", "mails"), "mails"),
        (("declare", "--url", "memory://", "--url-file", "nowhere", "mails"), "give one of them"),
        (("declare", "--url-file", "nowhere", "mails"), "nowhere"),
        (("decalre",), "decalre"),
        (("purge", "--url", "memory://", "mails"), "add --yes"),
    ):
        done = qbridge(*args, code=2)
        assert said in done.stderr, args
        assert "Traceback" not in done.stderr + done.stdout


def test_a_broker_that_is_away_is_exit_code_3(qbridge: QBridge) -> None:
    """It is told in a line, without the password."""
    done = qbridge("declare", "mails", code=3, QBRIDGE_URL=NOBODY)
    assert "127.0.0.1:1" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_come_from_flags_then_variables_then_the_project(qbridge: QBridge, tmp_path: Path) -> None:
    """A flag counts before a variable, that before pyproject.toml of this folder or one above."""
    project, inner = tmp_path / "pyproject.toml", tmp_path / "inner"
    inner.mkdir()
    project.write_text(f'[tool.qbridge]\nurl = "{NOBODY}"\n[tool.qbridge.declare]\ndead = "from-the-project"\n')
    (tmp_path / "url").write_text("memory://\n")
    assert qbridge("declare", "mails", code=3)
    done = qbridge("declare", "mails", QBRIDGE_URL="memory://")
    assert "from-the-project" in done.stdout
    done = qbridge("declare", "mails", QBRIDGE_URL_FILE="url", QBRIDGE_DECLARE_DEAD="from-a-variable")
    assert "from-a-variable" in done.stdout
    done = qbridge(
        "declare", "mails", "--url-file", "url", "--dead", "typed", QBRIDGE_URL=NOBODY, QBRIDGE_DECLARE_DEAD="variable"
    )
    assert "typed" in done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.qbridge]\nulr = "memory://"\n', "ulr"),
        ("[tool.qbridge.declare]\ndaed = 1\n", "daed"),
        ("[tool.qbridge", "cannot be read"),
        ("[tool]\nqbridge = 1\n", "no table"),
    ],
)
def test_settings_that_nobody_reads_are_refused(qbridge: QBridge, tmp_path: Path, text: str, said: str) -> None:
    """A slip in pyproject.toml is told, and not ignored."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert said in qbridge("declare", "--url", "memory://", "mails", code=2).stderr


def test_backends_are_listed(qbridge: QBridge) -> None:
    """As a table, and as an object with --json."""
    found = json.loads(qbridge("backends", "--json").stdout)
    assert found["memory"] == "qbridge-memory"
    lines = qbridge("backends").stdout.splitlines()
    assert ["memory://", "qbridge-memory"] in [line.split() for line in lines]


def test_a_queue_is_declared_and_purged(qbridge: QBridge, shared_url: str, unique_name: str) -> None:
    """What waits is deleted when it is confirmed, and the log says who did it."""
    dead = f"{unique_name}-letters"
    assert dead in qbridge("declare", "--url", shared_url, unique_name, "--dead", dead).stdout
    with connect(shared_url) as client:
        client.send_many(unique_name, [1, 2, 3])
        assert "--yes" in qbridge("purge", unique_name, code=2, QBRIDGE_URL=shared_url).stderr
        assert client.stats(unique_name).ready == 3
        done = qbridge("purge", unique_name, "--yes", QBRIDGE_URL=shared_url)
        assert done.stdout == f"deleted 3 messages of {unique_name}\n"
        assert f"purged {unique_name}: 3 messages deleted, by " in done.stderr
        assert client.stats(unique_name).ready == 0


def test_without_the_extra_it_says_what_to_install(qbridge: QBridge, tmp_path: Path) -> None:
    """No click, no traceback: the line for pip."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'click' else find(name, *more)\n"
    )
    done = qbridge("backends", code=2, PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    assert 'pip install "./qbridge_core[cli]"' in done.stderr
