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
    """One script. Immutable."""

    def __init__(self, name: str) -> None:
        self.text: Final = resources.files("qbridge_redis").joinpath("lua", f"{name}.lua").read_bytes()
        self.sha: Final = hashlib.sha1(self.text, usedforsecurity=False).hexdigest()
        _by_sha[self.sha] = self

    def __call__(self, keys: Sequence[bytes], *args: Argument) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)

    def load(self) -> Command:
        """The command that makes the server know it."""
        return ("SCRIPT", "LOAD", self.text)


def with_text(command: Command) -> Command:
    """The same call for a server that does not know the script."""
    return ("EVAL", _by_sha[str(command[1])].text, *command[2:])


_by_sha: Final[dict[str, Script]] = {}

ACK: Final = Script("ack")
ENSURE: Final = Script("ensure")
LEAVE: Final = Script("leave")
PROMOTE: Final = Script("promote")
PUBLISH_LATER: Final = Script("publish_later")
PURGE: Final = Script("purge")
REAP: Final = Script("reap")
RECLAIM: Final = Script("reclaim")
RENEW: Final = Script("renew")
REPLAY: Final = Script("replay")
RESTORE: Final = Script("restore")
SETTLE: Final = Script("settle")
