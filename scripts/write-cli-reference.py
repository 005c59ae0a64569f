"""Write docs/cli.md from the commands themselves: python scripts/write-cli-reference.py [FILE]."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from qbridge_core.cli.program import qbridge

_TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
_WIDTH = 100


def pages(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[str]:
    """A section for each command, those below it behind it."""
    settings = {**command.context_settings, "terminal_width": _WIDTH, "max_content_width": _WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            if found := command.get_command(context, each):
                yield from pages(found, each, context)


def text() -> str:
    """The page."""
    begin = (
        "# The command `qbridge`\n\n"
        "The extra `cli` brings it ([installation](install.md)); `python -m qbridge_core` is the same. This page is\n"
        "written by `scripts/write-cli-reference.py` from what `--help` says.\n\n"
        "The Tab key completes commands and options when the shell has been told, once, in its start file:\n\n"
        '```text\n~/.bashrc   eval "$(_QBRIDGE_COMPLETE=bash_source qbridge)"\n'
        '~/.zshrc    eval "$(_QBRIDGE_COMPLETE=zsh_source qbridge)"\n'
        "config.fish _QBRIDGE_COMPLETE=fish_source qbridge | source\n```\n"
    )
    return "\n".join([begin, *pages(qbridge, "qbridge")])


if __name__ == "__main__":
    (Path(sys.argv[1]) if sys.argv[1:] else _TARGET).write_text(text())
