"""``qbridge dlq show``."""

from __future__ import annotations

import sys
from itertools import chain

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.options import Desk, on_letters
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.letters.jsonform import written
from qbridge_core.cli.letters.pages import letters_of
from qbridge_core.cli.letters.place import place_of_letter
from qbridge_core.cli.letters.story import story_of
from qbridge_core.cli.letters.text import lines_of
from qbridge_core.cli.output import json_option, print_json
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.dead_letter import DeadLetter
from qbridge_core.runtime.logtexts import escaped


@click.command(cls=Command)
@on_letters
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--raw", is_flag=True, help="Write the bytes of the only letter's body, and nothing else.")
@json_option
def command(desk: Desk, ids: tuple[str, ...], raw: bool, as_json: bool) -> None:
    """Show all that letters of QUEUE say: payload, bytes, traceback, and why they ran more than once.

    Equal letters of other programs may share an id: one of them is shown.

    With --json an array of objects, as export writes them, with place, payload, and the history in sentences: story.
    """
    if raw and (len(ids) > 1 or as_json):
        raise click.UsageError("--raw writes the body of one letter, and nothing else")
    if raw and sys.stdout.isatty():
        raise click.UsageError("--raw writes whatever is in the body: send it somewhere else than to the terminal")
    letters = find(desk.client, desk.dead, ids)
    found = [letters[each] for each in ids if each in letters]
    if raw:
        click.echo(b"".join(letter.body for letter in found), nl=False)
    elif as_json:
        print_json([_as_json(letter) for letter in found])
    else:
        for number, letter in enumerate(found):
            for line in chain([""] if number else [], lines_of(letter)):
                click.echo(line)
    require_all(desk.dead, ids, letters)


def find(client: QueueClient, dead: str, ids: tuple[str, ...]) -> dict[str, DeadLetter]:
    """The letters with these ids, as far as they are there."""
    missing, found = set(ids), {}
    for letter in letters_of(client, dead):
        if letter.id in missing:
            missing.remove(letter.id)
            found[letter.id] = letter
            if not missing:
                break
    return found


def require_all(dead: str, ids: tuple[str, ...], found: dict[str, DeadLetter]) -> None:
    """End the command when letters were not there.

    Raises:
        Failed: so it is.
    """
    missing = [escaped(each) for each in ids if each not in found]
    if missing:
        raise Failed(f"{dead} has no letter {', '.join(missing)}: it was sent back or deleted, or a consumer holds it")


def _as_json(letter: DeadLetter) -> dict[str, object]:
    more = {"place": place_of_letter(letter), "payload": letter.payload, "story": story_of(letter)}
    return {**written(letter), **more}
