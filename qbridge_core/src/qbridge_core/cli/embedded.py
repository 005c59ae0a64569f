"""The command within another program, which knows the broker and has the tasks: ``manage.py qbridge``."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import click

from qbridge_core.cli.program import Program, qbridge

_URL: Final = "QBRIDGE_URL"
_TARGETS: Final = ("QBRIDGE_DOCTOR_TARGET", "QBRIDGE_DLQ_DEBUG_TARGET")
_WORKER: Final = "worker"
_HELP: Final = """Run a worker for all tasks of this project, or for those of some queues.

SIGTERM and Ctrl-C stop gracefully, with exit code 0; a second signal stops at once, a third one kills. Without
--processes and --reload the worker is one process, with no supervisor.
"""


def run_embedded(args: Sequence[str], name: str, target: str, url: str | None) -> int:
    """Run a command; the exit code.

    Args:
        args: what was typed behind ``name``.
        name: how the command is called.
        target: what its worker runs, and what other commands look at; an app, which knows its broker.
        url: the broker of the other commands; ``None`` where they have to be told.
    """
    program = _Embedded(target)
    try:
        with _known(url, target):
            program.main(list(args), prog_name=name)
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    raise AssertionError("click ends the process")


class _Embedded(Program):
    """Has a worker that needs no TARGET."""

    def __init__(self, target: str) -> None:
        super().__init__(
            where=qbridge.where, callback=qbridge.callback, params=qbridge.params, help=qbridge.help,
            context_settings=qbridge.context_settings,
        )  # fmt: skip
        self._target = target

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """As the program has it."""
        found = super().get_command(ctx, cmd_name)
        return found if found is None or cmd_name != _WORKER else _without_target(found, self._target)


def _without_target(worker: click.Command, target: str) -> click.Command:
    """The command for one target, which has a broker and settings of its own."""
    from qbridge_core.cli.commands.worker import OF_HANDLERS

    own = copy.copy(worker)
    own.help = _HELP
    own.params = [
        _hidden(param) if param.name in OF_HANDLERS else param
        for param in worker.params
        if param.name not in ("targets", "url", "url_file")
    ]
    own.callback = functools.partial(worker.callback or _nothing, targets=(target,), url=None, url_file=None)
    return own


def _hidden(param: click.Parameter) -> click.Parameter:
    hidden: Any = copy.copy(param)
    hidden.hidden = True
    return hidden  # type: ignore[no-any-return]


def _nothing(**_: object) -> None:
    """Each command has something to do."""


@contextmanager
def _known(url: str | None, target: str) -> Iterator[None]:
    """What commands ask the environment for: the broker, and what runs the tasks."""
    names = {_URL: url, **dict.fromkeys(_TARGETS, target)}
    before = {name: os.environ.get(name) for name in names}
    _set(names)
    try:
        yield
    finally:
        for name in names:
            os.environ.pop(name, None)
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    os.environ.update({name: value for name, value in variables.items() if value is not None})
