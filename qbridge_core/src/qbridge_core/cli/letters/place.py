"""Where in a user's own code an exception was raised, read from the text of its traceback."""

from __future__ import annotations

import re
from typing import Final

from qbridge_core.contract.dead_letter import DeadLetter

_FRAME: Final = re.compile(r'^[\s|+-]*File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<name>.+?)\s*$', re.MULTILINE)
# Traceback texts come from other machines, so what is somebody's own is told by how paths of libraries look anywhere.
_FOREIGN: Final = re.compile(
    r"[/\\](site|dist)-packages[/\\]"
    r"|[/\\]lib[/\\]python\d(\.\d+)?[/\\]"
    r"|[/\\]Python\d+[/\\]Lib[/\\]"
    r"|[/\\]qbridge_(core|rabbitmq|redis|kombu|memory)[/\\](src[/\\])?"
    r"|^<(frozen|string|stdin)",
    re.IGNORECASE,
)
_SHOWN_PARTS: Final = 2


def place_of_letter(letter: DeadLetter) -> str:
    """Where the exception of a letter was raised: as its worker saw it, or else as the traceback says."""
    told = letter.history[-1].place if letter.history else ""
    return told or place_of(letter.traceback)


def place_of(traceback: str) -> str:
    """The innermost frame of somebody's own code as ``shop/mail.py:12 send``; "" where there is none.

    Where all frames are those of libraries it is the innermost of them. Of exceptions that were raised one after
    another the last counts, which is the one that the letter names.
    """
    last = re.split(r"\n\n(?:During handling|The above exception)[^\n]*\n\n", traceback)[-1]
    frames = list(_FRAME.finditer(last)) or list(_FRAME.finditer(traceback))
    if not frames:
        return ""
    own = [frame for frame in frames if not _FOREIGN.search(frame["file"])]
    found = (own or frames)[-1]
    parts = re.split(r"[/\\]", found["file"])[-_SHOWN_PARTS:]
    return f"{'/'.join(parts)}:{found['line']} {found['name']}"
