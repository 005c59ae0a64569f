"""The log of a worker program."""

from __future__ import annotations

import logging
from typing import Final

from qbridge_core.logs import JsonFormatter

LEVELS: Final = ("debug", "info", "warning", "error")
TEXT: Final = "text"
JSON: Final = "json"
_FORMAT: Final = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def set_up_logs(level: str | None, form: str | None) -> None:
    """Log to standard error, unless the program has set up something else by now.

    Args:
        level: one of ``LEVELS``; ``None`` means info, or what the program has set up.
        form: ``TEXT`` or ``JSON``; ``None`` means text, or what the program has set up.
    """
    root = logging.getLogger()
    if not root.handlers:
        logging.basicConfig(level=(level or "info").upper())
        form = form or TEXT
    elif level is not None:
        root.setLevel(level.upper())
    if form is not None:
        for handler in root.handlers:
            handler.setFormatter(JsonFormatter() if form == JSON else logging.Formatter(_FORMAT))
