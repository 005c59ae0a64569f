"""What the examples for production call exists, with the options that they give it."""

from __future__ import annotations

import click
import pytest

from qbridge_core.cli.program import qbridge
from support.deployment import DEPLOY, commands
from support.pages import DOCS

COMMANDS = commands()


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_one_that_the_program_understands(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name, its options, their values, and as many arguments as it takes."""
    monkeypatch.chdir(DEPLOY)
    parse(qbridge, words, None)


def parse(group: click.Command, words: list[str], parent: click.Context | None, name: str = "qbridge") -> None:
    """Read a command line without running it."""
    if not isinstance(group, click.Group):
        group.make_context(name, list(words), parent=parent)
        return
    context = group.make_context(name, words[:1], parent=parent)
    command = group.get_command(context, words[0])
    assert command is not None, f"there is no command {words[0]}"
    parse(command, words[1:], context, words[0])


def test_what_is_misspelled_is_found() -> None:
    """The test above fails for an option that there is not."""
    with pytest.raises(click.UsageError):
        parse(qbridge, ["worker", "tasks:send_email", "--quene", "emails"], None)


def test_there_are_commands_of_each_kind() -> None:
    """None of the places is overlooked because its format has changed."""
    places = {place.partition(":")[0].partition(",")[0] for place in COMMANDS}
    assert places >= {
        "Dockerfile", "compose.yaml", "worker.yaml", "exporter.yaml", "periodic.yaml", "production.md",
        "qbridge-worker.service", "qbridge-exporter.service",
    }  # fmt: skip
    assert {words[0] for words in COMMANDS.values()} >= {"worker", "exporter", "send", "declare", "doctor"}


def test_the_handler_of_the_examples_is_that_of_the_application() -> None:
    """`tasks:send_email`, of deploy/app."""
    targets = {words[1] for words in COMMANDS.values() if words[0] == "worker" and len(words) > 1}
    assert targets == {"tasks:send_email"}
    assert "def send_email(" in (DEPLOY / "app" / "tasks.py").read_text(encoding="utf-8")


def test_every_file_is_told_of() -> None:
    """The page names each file of deploy/ that somebody would use."""
    page = (DOCS / "production.md").read_text(encoding="utf-8")
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert not [path.name for path in files if path.name not in page and path.name != "requirements.txt"]
