"""For a program that must not outlive the process that started it."""

from __future__ import annotations

import os
import threading


def end_with_parent() -> None:
    """From now on end this process when its standard input ends, as it does when its parent dies."""
    threading.Thread(target=_wait_for_the_end, name="parent", daemon=True).start()


def _wait_for_the_end() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would still be held when the interpreter ends
    os._exit(3)
