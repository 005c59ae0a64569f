"""What all commands have in common: settings, errors, exit codes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import redis

from integration.cli.conftest import QBridge, StartQBridge
from support.brokers import Broker

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


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--url", "memory://", "stats", "mails"), "It stands behind the command: qbridge stats --url"),
        (("--url=memory://", "dlq", "list", "mails"), "qbridge dlq list --url"),
        (("dlq", "--reason", "failed", "list", "mails"), "qbridge dlq list --reason"),
        (("--json",), "qbridge COMMAND --json"),
        (("--helpp",), "'--help'"),
    ],
)
def test_an_option_before_its_command_is_told_where_it_belongs(
    qbridge: QBridge, args: tuple[str, ...], said: str
) -> None:
    """That of the command which is named, or of any; what is an option of none has what click says."""
    done = qbridge(*args, code=2)
    assert f"No such option '{args[0].partition('=')[0] if args[0] != 'dlq' else args[1]}'" in done.stderr
    assert said in done.stderr


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
        ("[tool.qbridge.declare]\ndead = { mails = 1 }\n", "is one value"),
        ('[tool.qbridge.declare]\ndead = ["mails"]\n', "is one value"),
        ("[tool.qbridge]\nurl-file = 1\n", "is a text"),
        ("[tool.qbridge]\ndeclare = 1\n", "is a table"),
        ("[tool.qbridge", "cannot be read"),
        ("[tool]\nqbridge = 1\n", "no table"),
    ],
)
def test_settings_that_nobody_reads_are_refused(qbridge: QBridge, tmp_path: Path, text: str, said: str) -> None:
    """A slip in pyproject.toml is told, and not ignored."""
    (tmp_path / "pyproject.toml").write_text(text)
    assert said in qbridge("declare", "--url", "memory://", "mails", code=2).stderr


def test_settings_are_called_like_the_options(qbridge: QBridge, tmp_path: Path) -> None:
    """``--json`` is ``json`` and ``QBRIDGE_BACKENDS_JSON``; a command's own variable counts before that of all."""
    (tmp_path / "pyproject.toml").write_text("[tool.qbridge.backends]\njson = true\n")
    assert json.loads(qbridge("backends").stdout)
    assert not qbridge("backends", QBRIDGE_BACKENDS_JSON="no").stdout.startswith("{")
    (tmp_path / "pyproject.toml").unlink()
    assert json.loads(qbridge("backends", QBRIDGE_BACKENDS_JSON="1").stdout)
    qbridge("declare", "mails", QBRIDGE_URL=NOBODY, QBRIDGE_DECLARE_URL="memory://")


def test_a_file_in_the_settings_is_meant_as_seen_from_the_project(qbridge: QBridge, tmp_path: Path) -> None:
    """Whichever folder of the project somebody is in."""
    (tmp_path / "pyproject.toml").write_text('[tool.qbridge]\nurl-file = "secrets/url"\n')
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "url").write_text("memory://\n")
    (tmp_path / "below").mkdir()
    qbridge("declare", "mails", cwd=tmp_path / "below")


def test_what_is_no_option_is_no_variable(qbridge: QBridge) -> None:
    """A version that a deployment keeps in QBRIDGE_VERSION, say, ends no command."""
    assert "memory" in qbridge("backends", QBRIDGE_VERSION="1.2.3", QBRIDGE_HELP="1", QBRIDGE_BACKENDS_HELP="1").stdout


def test_the_help_is_there_in_each_way(qbridge: QBridge) -> None:
    """-h and --help are the same for all; no command at all is wrong usage, with the help."""
    assert qbridge("-h").stdout == qbridge("--help").stdout
    assert "backends" in qbridge("-h").stdout
    assert "--json" in qbridge("backends", "-h").stdout
    assert "Commands:" in qbridge(code=2).stderr


def test_output_that_nobody_takes_ends_the_command(start_qbridge: StartQBridge) -> None:
    """A pipe that is closed early and a full disk show no traceback, and neither does a closed input."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as closed, Path("/dev/full").open("wb") as full:
        for stdout, said in ((closed, ""), (full, "Error: the output cannot be written: No space left on device\n")):
            process = start_qbridge("backends", stdout=stdout)
            assert process.communicate(timeout=60)[1] == said
            assert process.returncode == 1
    process = start_qbridge("purge", "--url", "memory://", "mails", close_input=True)
    assert "add --yes" in process.communicate(timeout=60)[1]


def test_a_pipe_gets_plain_text(qbridge: QBridge) -> None:
    """No colours, no frames, no blanks at the ends of lines; and nothing is imported that only draws."""
    done = qbridge("backends", FORCE_COLOR="1", PYTHONPROFILEIMPORTTIME="1")
    assert all(line.isascii() and line.isprintable() and line == line.rstrip() for line in done.stdout.splitlines())
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "qbridge_core.cli.output" in imported
    assert not imported & {"rich", "asyncio", "ssl", "concurrent.futures"}


def test_the_tab_key_completes(qbridge: QBridge) -> None:
    """The shell is told what the commands and their options are called."""
    told = qbridge(_QBRIDGE_COMPLETE="bash_complete", COMP_WORDS="qbridge backends --j", COMP_CWORD="2")
    assert told.stdout.strip() == "plain,--json"


def test_backends_are_listed(qbridge: QBridge) -> None:
    """As a table, and as an object with --json."""
    found = json.loads(qbridge("backends", "--json").stdout)
    assert found["memory"] == "qbridge-memory"
    lines = qbridge("backends").stdout.splitlines()
    assert ["memory://", "qbridge-memory"] in [line.split() for line in lines]


def test_without_the_extra_it_says_what_to_install(qbridge: QBridge, tmp_path: Path) -> None:
    """No click, no traceback: the line for pip."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'click' else find(name, *more)\n"
    )
    done = qbridge("backends", code=2, PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}")
    assert 'pip install "./qbridge_core[cli]"' in done.stderr


def test_commands_do_not_repeat_what_the_doctor_says(qbridge: QBridge, private_redis: Broker, unique_name: str) -> None:
    """A server that keeps nothing is no news for each command: what they print to standard error is theirs."""
    with redis.Redis.from_url(private_redis.url) as server:
        server.config_set("appendonly", "no")
    assert qbridge("declare", unique_name, QBRIDGE_URL=private_redis.url).stderr == ""
