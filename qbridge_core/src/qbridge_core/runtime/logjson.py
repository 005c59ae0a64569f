"""One JSON object in a line for each log record, as collectors of logs want them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PREFIX: Final = "qbridge_"


_sources: Final[list[Callable[[], Mapping[str, Any]]]] = []


def tell_too(source: Callable[[], Mapping[str, Any]]) -> None:
    """Have each line tell what this knows in the context of its record, as far as the record does not say it."""
    _sources.append(source)


class JsonFormatter(logging.Formatter):
    """Writes ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, ``process`` and ``thread``.

    And what else is known: ``task_id``, ``queue`` and ``attempt`` of a record about a task, or of one that arises in a
    handler; ``exception`` (the formatted traceback), and whatever a program has given as ``extra``, as text where JSON
    does not know it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            "thread": record.threadName,
        }
        given = {name: value for name, value in vars(record).items() if name not in _OWN}
        for more in (given, *(source() for source in _sources)):
            for name, value in more.items():
                told.setdefault(name.removeprefix(_PREFIX), value)
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            told["exception"] = record.exc_text
        return json.dumps(told, default=str, ensure_ascii=False)
