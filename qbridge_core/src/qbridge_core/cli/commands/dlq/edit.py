"""``qbridge dlq edit``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from qbridge_core.cli.asking import ask, yes_option
from qbridge_core.cli.command import Command
from qbridge_core.cli.commands.dlq.acting import letters, logged
from qbridge_core.cli.commands.dlq.options import Desk, on_letters
from qbridge_core.cli.commands.dlq.show import find, require_all
from qbridge_core.cli.exits import Failed
from qbridge_core.cli.letters.edits import editable, edited_body
from qbridge_core.runtime.logtexts import escaped

_EDITOR: Final = "vi"


@click.command(cls=Command)
@on_letters
@click.argument("letter_id", metavar="ID")
@click.option("--target", metavar="QUEUE", help="Where to, instead of the queue that it came from.")
@click.option(
    "--body", "whole", is_flag=True, help="Edit the whole body, of whatever format, and send what it is then."
)
@yes_option
def command(desk: Desk, letter_id: str, target: str | None, whole: bool, yes: bool) -> None:
    """Change the payload of a dead letter in an editor, and send it back.

    The editor is $VISUAL or $EDITOR, and gets the payload as JSON; of a letter that is no task the whole body, to make
    a task of it. What cannot be a task is not sent, and can be edited again. The letter keeps the id of its task, and
    what else its body has beside the payload; it is another message. Left as it is, or emptied, it stays where it is.

    Where a queue has another format than the envelope, --body has the whole body edited, and sends what it is then.
    """
    client, dead = desk.client, desk.dead
    found = find(client, dead, (letter_id,))
    require_all(dead, (letter_id,), found)
    letter = found[letter_id]
    where = target or letter.source_queue
    if not where:
        raise click.UsageError("the letter does not say which queue it came from: give a --target")
    original = _text(letter.body) if whole else editable(letter.body)
    with _draft(original) as file:
        body = _edited(letter.body, original, file, whole=whole)
        ask(f"Send the edited letter to {escaped(where)}?", yes)
        with logged(lambda done: f"sent {letters(done)} of {dead} edited ({letter_id}) to {where}") as deed:
            deed.do(client.replay, dead, letters=[letter_id], body=body, target=target)
        deed.finish()
    click.echo(f"sent the edited letter to {escaped(where)}")


@contextmanager
def _draft(original: str) -> Iterator[Path]:
    """A file to edit; what somebody has written is kept until it is sent."""
    descriptor, name = tempfile.mkstemp(prefix="qbridge-letter-", suffix=".json")
    file = Path(name)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as handle:
        handle.write(original)
    try:
        yield file
    except BaseException:
        if _is_changed(file, original):
            click.echo(f"what was written is in {file}", err=True)
        else:
            file.unlink(missing_ok=True)
        raise
    file.unlink(missing_ok=True)


def _is_changed(file: Path, original: str) -> bool:
    try:
        text = file.read_bytes()
    except OSError:
        return False
    return bool(text.strip()) and text != original.encode()


def _text(body: bytes) -> str:
    """A whole body for an editor.

    Raises:
        Failed: it is no text.
    """
    try:
        return body.decode()
    except UnicodeDecodeError as exc:
        raise Failed(f"the body is no text in UTF-8 ({exc.reason} at byte {exc.start}), so no editor gets it") from exc


def _edited(body: bytes, original: str, file: Path, *, whole: bool) -> bytes:
    """What somebody makes of a body, whose text for an editor was this.

    Raises:
        Failed: nothing, or what is no task, and nobody can be asked to edit it again.
    """
    while True:
        _run_editor(file)
        if not _is_changed(file, original):
            raise Failed("nothing was changed; the letter stays where it is")
        if whole:  # editors end the last line
            text = file.read_bytes()
            return text if original.endswith("\n") else text.removesuffix(b"\n")
        try:
            return edited_body(body, file.read_bytes())
        except ValueError as exc:
            _ask_to_edit_again(exc)


def _ask_to_edit_again(problem: ValueError) -> None:
    if not sys.stdin.isatty() or not click.confirm(f"{problem}. Edit it again?", default=True, err=True):
        raise Failed(f"{problem}; the letter stays where it is") from problem


def _run_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or _EDITOR
    try:
        status = subprocess.run([*shlex.split(editor), str(file)], check=False).returncode  # noqa: S603 - the user's own
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"the editor {editor!r} cannot be started ({exc}): set EDITOR") from exc
    if status:
        raise Failed(f"the editor ended with {status}; the letter stays where it is")
