"""The Lua scripts, called by their hash. ``lua/*.lua`` says what each one takes and returns.

Facts: https://redis.io/docs/latest/develop/programmability/eval-intro/ (a script is atomic, its effects are not rolled
back, and the server forgets it when it restarts) and ``flags=allow-oom`` of
https://redis.io/docs/latest/develop/programmability/lua-api/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Final

Argument = bytes | str | int
Command = tuple[Argument, ...]


class Script:
    """One script. Immutable.

    Args:
        name: its file.
        library: a file with functions to put before it.
    """

    def __init__(self, name: str, library: str | None = None) -> None:
        text = _read(name)
        if library is not None:
            flags, _, rest = text.partition(b"\n")  # those must be the first line
            text = flags + b"\n" + _read(library) + rest
        self.text: Final = text
        self.sha: Final = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        _by_sha[self.sha] = self

    def __call__(self, keys: Sequence[bytes], *args: Argument) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def load(self) -> Command:
        """The command that makes the server know it."""
        return ("SCRIPT", "LOAD", self.text)


def _read(name: str) -> bytes:
    return resources.files(__package__).joinpath("lua", f"{name}.lua").read_bytes()


def with_text(command: Command) -> Command:
    """The same call for a server that does not know the script."""
    return ("EVAL", _by_sha[str(command[1])].text, *command[2:])


_by_sha: Final[dict[str, Script]] = {}

ACK: Final = Script("ack")
DELETE_LETTERS: Final = Script("delete_letters")
ENSURE: Final = Script("ensure")
REMOVE_CONSUMER: Final = Script("remove_consumer")
FIND_ABANDONED: Final = Script("find_abandoned")
LOOK: Final = Script("look")
LOOK_DELAYED: Final = Script("look_delayed")
NEXT_DUE: Final = Script("next_due")
PROBE_PERMISSIONS: Final = Script("probe_permissions")
PROMOTE: Final = Script("promote", "spread")
PUBLISH_LATER: Final = Script("publish_later")
PURGE: Final = Script("purge")
REMOVE_IDLE_CONSUMERS: Final = Script("remove_idle_consumers")
RELEASE: Final = Script("release")
RENEW: Final = Script("renew")
REPLAY: Final = Script("replay", "spread")
REPLAY_EDITED: Final = Script("replay_edited", "spread")
RESTORE: Final = Script("restore", "spread")
SETTLE: Final = Script("settle", "spread")
TAKE_DELAYED: Final = Script("take_delayed", "spread")
TAKE_OVER: Final = Script("take_over")
