"""``manage.py qbridge``: the command ``qbridge`` for the project that it is called in."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError, CommandParser

from qbridge_core.contract.registry import how_to_install
from qbridge_core.contrib.django.framework import url_of_settings
from qbridge_core.contrib.django.project import backends

_TARGET: Final = "qbridge_core.contrib.django.worker:project"
_OF_DJANGO: Final = ("--settings", "--pythonpath")
"""Options that `manage.py` has dealt with before this command begins; the command does not know them."""


class Command(BaseCommand):  # type: ignore[misc]
    """Runs it with the broker of the settings; its worker works off the tasks of all installed apps."""

    help = "Runs workers for the tasks of this project, and looks at its queues: manage.py qbridge worker"

    def add_arguments(self, parser: CommandParser) -> None:
        """All that comes behind the name of a command is the command's."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def run_from_argv(self, argv: list[str]) -> None:
        """Also what is asked without naming a command is a question to the program."""
        is_question = argv[2:3] in ([], ["--help"], ["-h"], ["--version"])
        super().run_from_argv([*argv[:2], *(["--skip-checks", "--"] if is_question else []), *argv[2:]])

    def handle(self, *args: Any, arguments: Sequence[str], **options: Any) -> None:
        """Run it.

        Raises:
            CommandError: it has failed, and was called by a program.
        """
        del args, options
        try:
            from qbridge_core.cli.embedded import run_embedded
        except ModuleNotFoundError as exc:
            raise CommandError(f"the command line needs {exc.name}; {how_to_install('django')}") from exc
        given = _for_program(arguments)
        code = run_embedded(given, "manage.py qbridge", _TARGET, _url())
        if code and getattr(self, "_called_from_command_line", False):
            sys.exit(code)
        if code:
            raise CommandError(f"qbridge {' '.join(given)} has failed", returncode=code)


def _for_program(arguments: Sequence[str]) -> list[str]:
    """Without the options of `manage.py`, and the value behind one."""
    given = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    for option in _OF_DJANGO:
        if option in given:
            place = given.index(option)
            del given[place : place + 2]
        given = [each for each in given if not each.startswith(f"{option}=")]
    return given


def _url() -> str | None:
    """The broker of the settings, or that of the only backend; ``None`` where it is not clear which is meant."""
    named = url_of_settings()
    others = {app.url for app in backends()} if named is None else set()
    return named or (others.pop() if len(others) == 1 else None)
