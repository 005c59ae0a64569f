"""What the commands for dead letters have in common: the queue, filters, and how letters are chosen."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple

import click

from qbridge_core.cli.broker import with_client
from qbridge_core.cli.letters.filters import Filters, Match
from qbridge_core.cli.letters.pages import letters_of
from qbridge_core.cli.letters.queues import dead_letter_queue, nothing_there
from qbridge_core.cli.letters.times import moment
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter, Reason

_Any = Callable[..., Any]
_FILTERS: Final = [each.name for each in fields(Filters)]


class Desk(NamedTuple):
    """Where the letters are.

    Attributes:
        client: a connected client.
        queue: what was typed.
        dead: the dead-letter queue that is meant.
    """

    client: QueueClient
    queue: str
    dead: str

    def letters(self) -> Iterator[DeadLetter]:
        """All of them, oldest first."""
        return letters_of(self.client, self.dead)

    def nothing(self, filters: Filters | None = None) -> str:
        """What to say when no letter was found."""
        return f"no letters in {self.dead} are so" if filters else nothing_there(*self)


def on_letters(command: _Any) -> _Any:
    """Give a command ``QUEUE`` and ``--dead``; it gets a ``desk``."""

    @functools.wraps(command)
    def found(*args: Any, client: QueueClient, queue: str, dead: str | None, **kwargs: Any) -> Any:
        return command(*args, desk=Desk(client, queue, dead_letter_queue(client, queue, dead)), **kwargs)

    option = click.option("--dead", metavar="QUEUE", help="The dead-letter queue, where it is not QUEUE.dead.")
    return click.argument("queue")(option(with_client(found)))


def _read(parse: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that reads what was typed, once or several times."""

    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except ValueError as exc:
            raise click.BadParameter(str(exc), context, parameter) from exc

    return callback


def _moment(text: str) -> float:
    return moment(text, time.time())


def filter_options(command: _Any) -> _Any:
    """Give a command the filters; it gets them as ``filters``."""

    @functools.wraps(command)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        given = {name: kwargs.pop(name) for name in _FILTERS}
        return command(*args, filters=Filters(**given), **kwargs)

    for option in reversed(
        (
            click.option(
                "--reason",
                multiple=True,
                type=click.Choice([reason.value for reason in Reason]),
                help="Why it is a letter; may be given several times, as may the next four.",
            ),
            click.option(
                "--exception", multiple=True, metavar="TYPE", help="The exception's type, with or without its module."
            ),
            click.option("--place", multiple=True, metavar="TEXT", help="Where it was raised, or a part of that."),
            click.option("--task-id", multiple=True, metavar="ID", help="The task's id."),
            click.option("--source", multiple=True, metavar="QUEUE", help="The queue that it came from."),
            click.option(
                "--match",
                multiple=True,
                metavar="PATH=JSON",
                callback=_read(Match.of),
                help="A part of its payload, as in user.id=7; several must all be so.",
            ),
            click.option("--since", metavar="TIME", callback=_read(_moment), help="Failed after: 2h ago, or ISO 8601."),
            click.option("--until", metavar="TIME", callback=_read(_moment), help="Failed before."),
            click.option(
                "--max-replays",
                type=click.IntRange(min=0),
                help="Sent back so often at most: leaves what fails again and again.",
            ),
        )
    ):
        filtered = option(filtered)
    return filtered


@dataclass(frozen=True, slots=True)
class Choice:
    """Letters that a command acts on.

    Attributes:
        ids: those that were named, or none.
        filters: what the others have to be.
        everything: whether all were asked for.
    """

    ids: tuple[str, ...]
    filters: Filters
    everything: bool

    @property
    def is_whole_queue(self) -> bool:
        """Whether all letters are meant, without a look at any."""
        return not self.ids and not self.filters

    def find(self, desk: Desk) -> Iterator[DeadLetter]:
        """The letters that are meant."""
        letters = desk.letters()
        if self.ids:
            return (letter for letter in letters if letter.id in self.ids)
        return filter(self.filters.accept, letters)

    def ids_in(self, desk: Desk) -> list[str]:
        """The ids of those that are meant; named ones are not looked for."""
        return list(self.ids) or [letter.id for letter in self.find(desk)]


def choice_options(command: _Any) -> _Any:
    """Give a command ids, filters and ``--all``; it gets them as ``choice``."""

    @functools.wraps(command)
    def chosen(*args: Any, ids: tuple[str, ...], everything: bool, filters: Filters, **kwargs: Any) -> Any:
        if ids and (filters or everything):
            raise click.UsageError("name letters, or say which with filters or --all: not both")
        if not (ids or filters or everything):
            raise click.UsageError("which letters? Name them by their ids, use filters, or add --all")
        return command(*args, choice=Choice(ids, filters, everything), **kwargs)

    everything = click.option("--all", "everything", is_flag=True, help="All letters, as far as no filter says no.")
    return click.argument("ids", nargs=-1, metavar="[ID]...")(everything(filter_options(chosen)))
