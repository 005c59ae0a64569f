"""``qbridge dlq debug``."""

from __future__ import annotations

import pdb
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from qbridge_core.app.app import App
from qbridge_core.app.dispatch import dispatch_for
from qbridge_core.cli.asking import ask, yes_option
from qbridge_core.cli.broker import chosen_url, url_options
from qbridge_core.cli.checkup.target import target_of
from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.show import find, require_all
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.letters import running
from qbridge_core.cli.letters.queues import dead_letter_queue
from qbridge_core.cli.targets import load, make_importable
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.contract.envelope import UnfitError
from qbridge_core.contract.message import Delivery
from qbridge_core.contract.registry import connect
from qbridge_core.execute.executor import checked_handler
from qbridge_core.execute.lifespan import Lifespan
from qbridge_core.runtime.logtexts import escaped
from qbridge_core.task.formats.chosen import Formats
from qbridge_core.task.reading import TaskReader, UnreadableTaskError
from qbridge_core.task.routing import Router


@click.command(cls=Command)
@click.argument("queue")
@click.argument("letter_id", metavar="ID")
@click.option("--dead", metavar="QUEUE", help="The dead-letter queue, where it is not QUEUE.dead.")
@click.option(
    "--target",
    required=True,
    metavar="MODULE:NAME",
    help="An App, a handler, a TaskManager, or a function that returns one.",
)
@click.option("--pdb", "debugger", is_flag=True, help="Where the handler raises, stop there in Python's debugger.")
@yes_option
@url_options
def command(
    queue: str,
    letter_id: str,
    dead: str | None,
    target: str,
    debugger: bool,
    yes: bool,
    url: str | None,
    url_file: Path | None,
) -> None:
    """Run the handler on a dead letter of QUEUE, here and now.

    The letter stays where it is, and nothing else is written to the broker: the connection is closed before. What the
    handler does to the world it does. The current directory can be imported from. There is no timeout, and no retry;
    Retry, Reject and Snooze are exceptions like others.

    Exit code 1 when the handler raises.
    """
    with connect(chosen_url(url, url_file)) as client:
        meant = dead_letter_queue(client, queue, dead)
        found = find(client, meant, (letter_id,))
    require_all(meant, (letter_id,), found)
    letter = found[letter_id]
    ask(f"Run {target} on the payload of letter {escaped(letter_id)}? What it does is done.", yes)
    make_importable()
    handler, lifespan, payload = _handler(load(target), letter)
    try:
        result = running.run(handler, lifespan, letter, payload)
    except Exception as exc:
        frames = _of_handler(exc.__traceback__)
        for line in "".join(traceback.format_exception(type(exc), exc, frames)).splitlines():
            click.echo(escaped(line), err=True)
        if debugger:
            pdb.post_mortem(frames)
        raise Failed(f"the handler raised {type(exc).__name__}; the letter stays where it is") from exc
    click.echo(f"the handler returned {escaped(repr(result))[:200]}; the letter stays where it is")


def _handler(found: object, letter: DeadLetter) -> tuple[Callable[[Any], object], Lifespan | None, Any]:
    """What runs a task, what is open then, and the payload; of an app the function that the task names."""
    formats: Formats | None
    if isinstance(found, App):
        handler: Callable[[Any], object] = dispatch_for(letter.source_queue, found.tasks, 0.0, processes=False)
        formats, lifespan = found._root._layout.queue(letter.source_queue).formats, found.lifespan
    else:
        program = target_of(found)
        handler, formats, lifespan = checked_handler(program.handlers[0]), program.formats, program.lifespan
    return handler, lifespan, _payload(handler, formats, letter)


def _payload(handler: Callable[[Any], object], formats: Formats | None, letter: DeadLetter) -> Any:
    router = handler if isinstance(handler, Router) else None
    reader = TaskReader(formats, router, running.TERMS, max(1, len(letter.body)), again=True)
    delivery = Delivery(letter.body, letter.source_queue, letter.headers, letter.message_id)
    try:
        return reader.read(delivery)[0].payload
    except UnfitError as exc:
        cause = "" if exc.__cause__ is None else f": {type(exc.__cause__).__name__}"
        text = f"{exc}{cause if isinstance(exc, UnreadableTaskError) else ''}"
        raise Failed(f"no handler would see the letter: {text}") from exc


def _of_handler(frames: TracebackType | None) -> TracebackType | None:
    """The part of a traceback that begins with the handler."""
    handler = here = frames
    while here is not None:
        if here.tb_frame.f_code.co_filename == running.__file__:
            handler = here.tb_next
        here = here.tb_next
    return handler or frames
