"""What the log tells of a task: in its text, in its fields, and in the exception of a dead letter."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qbridge_core import RemoteError, TaskManager
from qbridge_core.logs import JsonFormatter
from qbridge_memory import MemoryClient
from support import handlers
from support.handlers import work


def work_off(client: MemoryClient, handler: Any, **options: Any) -> None:
    """Run what is in the queue, without retries."""
    TaskManager(client, handler, "q", "d", max_workers=1, **{"max_retries": 0, **options}).run_until_idle(60.0)


def dead_letter(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The record that tells of the only dead letter."""
    (record,) = [each for each in caplog.records if "dead-lettered" in each.getMessage()]
    return record


def formatted(record: logging.LogRecord) -> str:
    """The whole record, as a program prints it."""
    return logging.Formatter("%(message)s").format(record)


def failing(payload: object) -> None:
    """Fail, with a secret."""
    raise ValueError("token=secret")


def test_the_record_of_a_dead_letter_has_the_exception(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback; queue and attempts are in the text, too."""
    client.send("q", 1, task_id="t")
    work_off(client, failing, max_retries=1)
    record = dead_letter(caplog)
    assert record.getMessage() == "task t of q dead-lettered: failed after 2 attempts (ValueError: token=secret)"
    assert 'raise ValueError("token=secret")' in formatted(record)
    assert [each.getMessage() for each in caplog.records if "next attempt" in each.getMessage()] == [
        "task t of q failed in attempt 1 (ValueError: token=secret); next attempt in 0 s"
    ]


def test_what_is_redacted_is_not_in_the_traceback_either(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The record has the texts that may be shown, and not the exception itself."""
    client.send("q", 1)
    work_off(client, failing, redact=lambda text: text.replace("secret", "****"))
    record = dead_letter(caplog)
    assert "token=****" in formatted(record)
    assert "token=secret" not in formatted(record)
    assert record.exc_info is None or isinstance(record.exc_info[1], RemoteError)


def test_an_exception_of_a_child_process_is_shown_with_its_traceback(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Its text has travelled here."""
    client.send("q", {"do": "raise"})
    work_off(client, work, executor="process")
    assert "RemoteError" in formatted(dead_letter(caplog))
    assert "in _raise" in formatted(dead_letter(caplog))


def test_a_handler_that_was_too_late_is_shown_where_it_was(
    client: MemoryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing was raised, but there is a stack."""
    import threading

    release = threading.Event()

    def hang_here(_: object) -> None:
        release.wait(30)

    client.send("q", 1)
    work_off(client, hang_here, task_timeout=0.2)
    release.set()
    assert "in hang_here" in formatted(dead_letter(caplog))


def test_what_is_no_task_has_no_traceback(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing of the handler's has failed."""
    client.publish("q", b"{", message_id="m")
    work_off(client, failing)
    assert formatted(dead_letter(caplog)).count("\n") == 0


def test_a_record_as_json_has_all_that_is_known(client: MemoryClient, caplog: pytest.LogCaptureFixture) -> None:
    """One object in one line, with the fields of the task under their short names."""
    client.send("q", 1, task_id="t")
    work_off(client, failing)
    line = JsonFormatter().format(dead_letter(caplog))
    assert "\n" not in line
    told = json.loads(line)
    assert (told["task_id"], told["queue"], told["attempt"]) == ("t", "q", 1)
    assert (told["level"], told["logger"]) == ("ERROR", "qbridge.worker")
    assert told["message"].startswith("task t of q dead-lettered: failed after 1 attempts")
    assert told["exception"].startswith("  Traceback (most recent call last):")
    assert told["time"].endswith("+00:00")


@pytest.mark.parametrize(
    ("handler", "executor"),
    [(handlers.note_record, "thread"), (handlers.note_record_on_loop, "thread"), (handlers.note_record, "process")],
)
def test_what_a_handler_writes_names_its_task(
    client: MemoryClient, tmp_path: Path, handler: Callable[[str], object], executor: Any
) -> None:
    """As JSON a record of the program's own has the fields of the task in whose handler it arises, and no other."""
    client.send("q", str(tmp_path / "log"), task_id="t")
    work_off(client, handler, executor=executor)
    (line,) = handlers.notes(tmp_path / "log")
    told = json.loads(line)
    assert (told["task_id"], told["queue"], told["attempt"], told["order"]) == ("t", "q", 1, 7)
    assert "task_id" not in json.loads(JsonFormatter().format(logging.makeLogRecord({"msg": "outside"})))


def test_json_knows_the_extras_and_exceptions_of_a_program(tmp_path: Path) -> None:
    """Its own fields are there, as text where JSON has no such type, and take the place of none of ours."""
    try:
        raise KeyError("k")
    except KeyError as exc:
        record = logging.LogRecord("mine", logging.INFO, __file__, 1, "hello %s", ("world",), (KeyError, exc, None))
    record.path, record.level = tmp_path, "theirs"
    told = json.loads(JsonFormatter().format(record))
    assert told["message"] == "hello world"
    assert (told["path"], told["level"]) == (str(tmp_path), "INFO")
    assert told["exception"] == "KeyError: 'k'"
