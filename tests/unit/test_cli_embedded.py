"""The command within another program, such as ``manage.py``."""

from __future__ import annotations

import os

import pytest

from qbridge_core.cli.embedded import run_embedded

TARGET = "support.shop:app"


def embedded(*args: str, url: str | None = None) -> int:
    """Run it; the exit code."""
    return run_embedded(args, "manage.py qbridge", TARGET, url)


def test_it_is_called_as_the_program_says(capsys: pytest.CaptureFixture[str]) -> None:
    """In its help, and that of its worker, which shows no options for a handler or a broker."""
    assert embedded("--help") == 0
    assert capsys.readouterr().out.startswith("Usage: manage.py qbridge [OPTIONS] COMMAND")
    assert embedded("worker", "--help") == 0
    told = capsys.readouterr().out
    assert told.startswith("Usage: manage.py qbridge worker [OPTIONS]\n")
    assert "--queues" in told
    for option in ("--queue ", "--max-retries", "--url"):
        assert option not in told


@pytest.mark.parametrize("typed", [["shop.tasks:app"], ["--url", "memory://"]], ids=" ".join)
def test_its_worker_needs_neither_a_target_nor_a_broker(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused."""
    assert embedded("worker", *typed) == 2
    assert "Usage: manage.py qbridge worker [OPTIONS]" in capsys.readouterr().err


def test_other_commands_have_the_broker_of_the_program(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own counts before a variable, which is as it was afterwards; without one the variable counts."""
    monkeypatch.setenv("QBRIDGE_URL", "nothing://here")
    assert embedded("declare", "emails", url="memory://") == 0
    assert os.environ["QBRIDGE_URL"] == "nothing://here"
    assert embedded("declare", "emails") == 2
    assert "nothing://" in capsys.readouterr().err
    monkeypatch.delenv("QBRIDGE_URL")
    assert embedded("declare", "emails", url="memory://") == 0
    assert "QBRIDGE_URL" not in os.environ


def test_commands_that_look_at_handlers_know_those_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor has queues to look at, and the debugger something to run a letter with."""
    assert embedded("doctor", url="memory://") == 2
    told = capsys.readouterr()
    assert "support.shop has nothing called 'app'" in told.out + told.err
