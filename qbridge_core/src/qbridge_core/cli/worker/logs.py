"""The log of a worker program."""

from __future__ import annotations

import logging
from typing import Final

LEVELS: Final = ("debug", "info", "warning", "error")
_FORMAT: Final = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def set_up_logs(level: str | None) -> None:
    """Log to standard error, unless the program has set up something else by now.

    Args:
        level: one of ``LEVELS``; ``None`` means info, or what the program has set up.
    """
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(format=_FORMAT, level=(level or "info").upper())
    elif level is not None:
        root.setLevel(level.upper())
