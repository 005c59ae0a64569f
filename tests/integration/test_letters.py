"""Dead letters that are sent back by a process that is killed in the midst of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import suppress

import pytest

from qbridge_core import LettersGoneError, Message, connect
from support.wait import wait_for

LETTERS = 300
PROGRAM = """
import sys

from qbridge_core import connect

url, dead, target = sys.argv[1:4]
letters = sys.stdin.read().split() or None
with connect(url) as client:
    client.replay(dead, target=target, letters=letters)
"""


@pytest.mark.parametrize("choice", ["chosen", "all"])
def test_g13_a_killed_replay_loses_nothing_and_doubles_one_at_most(
    shared_url: str, unique_name: str, choice: str
) -> None:
    """Killed and started again it sends each letter back, one of them twice at most; what stays keeps its order."""
    dead = f"{unique_name}.dead"
    with connect(shared_url) as client:
        client.declare(unique_name, dead)
        client.publish_many(dead, [Message(b"%d" % number) for number in range(LETTERS)])
        letters = client.dead_letters(dead, LETTERS)
        named = letters[1::2] if choice == "chosen" else None
        wanted = len(named) if named else LETTERS
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, shared_url, dead, unique_name], stdin=subprocess.PIPE, text=True
        )
        assert program.stdin is not None
        program.stdin.write(" ".join(letter.id for letter in named or []))
        program.stdin.close()
        try:
            wait_for(lambda: client.stats(unique_name).ready >= wanted // 4, 60.0, "nothing is sent back")
        finally:
            program.kill()
            program.wait()
        wait_for(lambda: client.stats(dead).ready + client.stats(unique_name).ready >= LETTERS, 30.0)
        with suppress(LettersGoneError):  # those that went before the kill
            client.replay(dead, target=unique_name, letters=named)
        stay = [letter.body for letter in client.dead_letters(dead, LETTERS)]
        assert stay == ([letter.body for letter in letters[::2]] if named else [])
        back: Counter[bytes] = Counter()
        while deliveries := client.receive(unique_name, LETTERS, 1.0):
            back.update(delivery.body for delivery in deliveries)
        assert set(back) == {letter.body for letter in named or letters}
        assert sum(back.values()) - len(back) <= 1
