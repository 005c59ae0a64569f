"""The command ``qbridge`` with all that stands behind it."""

from __future__ import annotations

from typing import Any, Final

import click

from qbridge_core import __version__
from qbridge_core.cli.command import Group
from qbridge_core.cli.settings import SHARED, settings_of_project

_COMMANDS: Final = {
    name: f"qbridge_core.cli.commands.{name.replace('-', '_')}"
    for name in (
        "backends",
        "declare",
        "dlq",
        "doctor",
        "exporter",
        "pause",
        "purge",
        "resume",
        "send",
        "stats",
        "top",
        "worker",
    )
}


class Program(Group):
    """The outermost group: it reads the settings of the project."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does, with the settings as defaults."""
        settings = settings_of_project()
        return super().make_context(info_name, args, parent, obj=settings, default_map=settings, **extra)

    def check_settings(self, context: click.Context, other: tuple[str, ...] = ()) -> None:
        """As for each group; the settings for all commands stand here, too."""
        super().check_settings(context, (*SHARED, *other))


@click.group(
    cls=Program,
    where=_COMMANDS,
    context_settings={"auto_envvar_prefix": "QBRIDGE", "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s", allow_from_autoenv=False)
def qbridge() -> None:
    """Run workers, look at queues, and take dead letters in hand, on any broker.

    Each option can also be given as a variable QBRIDGE_COMMAND_OPTION, or in the table [tool.qbridge.COMMAND] of
    pyproject.toml; the broker's URL as QBRIDGE_URL, or as url in [tool.qbridge]. A password does not belong on a
    command line, where other users see it: use a variable, or a file with --url-file.

    Exit codes: 0 done, 1 failed or something was found, 2 wrong usage, 3 trouble with the broker.
    """
