"""What the command line makes of dead letters, without a broker and without a terminal."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import click
import pytest

from qbridge_core import Attempt, AttemptOutcome, DeadLetter, Reason
from qbridge_core.cli.letters import jsonform
from qbridge_core.cli.letters.filters import Filters, Match, found_at, same
from qbridge_core.cli.letters.grouping import groups_of
from qbridge_core.cli.letters.place import place_of
from qbridge_core.cli.letters.story import story_of
from qbridge_core.cli.letters.text import MOST_SHOWN, lines_of
from qbridge_core.cli.letters.times import duration, moment
from qbridge_core.cli.output import json_text
from qbridge_core.cli.program import qbridge

NOW = 1_700_000_000.0
TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/shop/mail.py", line 12, in send
    server.connect(payload["host"])
  File "/usr/lib/python3.11/smtplib.py", line 343, in connect
    self.sock = self._get_socket(host, port, self.timeout)
  File "/srv/venv/lib/python3.11/site-packages/socks.py", line 7, in create
    raise ConnectionRefusedError(111)
ConnectionRefusedError: 111
"""


LIBRARIES = """Traceback:
  File "/v/qbridge_core/src/qbridge_core/task/run.py", line 1, in a
  File "/v/lib/python3.12/json/decoder.py", line 3, in b
"""


def a_letter(**values: Any) -> DeadLetter:
    """A letter with a value in each field."""
    letter = DeadLetter(
        body=b'{"payload": {"user": {"id": 7}}}',
        headers={"h": "1"},
        reason=Reason.FAILED,
        exception_type="shop.Refused",
        exception_message="no",
        traceback=TRACEBACK,
        attempts=4,
        crashes=0,
        first_failed_at=NOW - 60,
        last_failed_at=NOW,
        source_queue="mails",
        task_id="mail-1",
        worker="host:1",
        id="1-1",
        message_id="m-1",
    )
    return replace(letter, **values)


# ---------------------------------------------------------------------- where it was raised


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        (TRACEBACK, "shop/mail.py:12 send"),
        (TRACEBACK.replace("/srv/app/shop/mail.py", "mail.py"), "mail.py:12 send"),
        (TRACEBACK.replace("/srv/app/shop/mail.py", r"C:\app\shop\mail.py"), "shop/mail.py:12 send"),
        (LIBRARIES, "json/decoder.py:3 b"),
        (
            TRACEBACK + "\nDuring handling of the above exception, another exception occurred:\n\n"
            'Traceback (most recent call last):\n  File "/srv/app/shop/retry.py", line 3, in again\n    raise X\nX\n',
            "shop/retry.py:3 again",
        ),
        ('  | File "/srv/app/group.py", line 8, in <lambda>\n', "app/group.py:8 <lambda>"),
        ("no frames", ""),
        ("", ""),
    ],
)
def test_the_place_is_the_innermost_frame_of_the_users_code(traceback: str, place: str) -> None:
    """Not in site-packages, the standard library or QBridge; of a chain of exceptions the last counts."""
    assert place_of(traceback) == place


# ---------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("filters", "accepted"),
    [
        (Filters(), True),
        (Filters(reason=("failed",)), True),
        (Filters(reason=("crashed", "timed out")), False),
        (Filters(exception=("shop.Refused",)), True),
        (Filters(exception=("Refused",)), True),
        (Filters(exception=("shop",)), False),
        (Filters(place=("mail.py:12",)), True),
        (Filters(place=("other.py",)), False),
        (Filters(match=(Match.of("user.id=7"),)), True),
        (Filters(match=(Match.of("user.id=7"), Match.of("user.name=ann"))), False),
        (Filters(since=NOW), True),
        (Filters(since=NOW + 1), False),
        (Filters(until=NOW), True),
        (Filters(until=NOW - 1), False),
        (Filters(task_id=("mail-1", "other")), True),
        (Filters(task_id=("other",)), False),
        (Filters(source=("mails",)), True),
        (Filters(source=("mails.dead",)), False),
        (Filters(max_replays=0), True),
        (Filters(reason=("failed",), source=("other",)), False),
    ],
)
def test_a_filter_accepts_what_it_says(filters: Filters, accepted: bool) -> None:
    """Of several values for one thing any counts, of different things all."""
    assert filters.accept(a_letter()) is accepted


def test_filters_know_what_they_cannot_know() -> None:
    """A letter that does not say when it failed is in no span of time, and one that is no task matches no payload."""
    assert not Filters(since=0.0).accept(a_letter(last_failed_at=None))
    assert not Filters(match=(Match.of("a=1"),)).accept(a_letter(body=b"\xff"))
    assert not Filters(max_replays=1).accept(a_letter(replays=2))
    assert not Filters()
    assert Filters(max_replays=0)


def test_a_dotted_path_leads_through_objects_lists_and_dotted_keys() -> None:
    """Keys that have dots themselves are found, too; what is not there is nothing."""
    value = {"a": [{"b": 1}, {"b.c": 2}], "a.1": {"b.c": 3}}
    assert found_at(value, "a.0.b") == [1]
    assert sorted(found_at(value, "a.1.b.c")) == [2, 3]
    assert found_at(value, "a.7.b") == found_at(value, "a.b") == found_at(3, "a") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=true", True), ('a="1"', "1"), ("a=ann", "ann"), ("a=", ""), ("a=b=c", "b=c"), ("a=null", None)],
)
def test_what_is_no_json_is_a_text(text: str, value: object) -> None:
    """Nobody has to quote a word twice."""
    assert same(Match.of(text).value, value)


def test_numbers_are_no_truth_values() -> None:
    """As in JSON 1 is 1.0, and not true."""
    assert same({"a": [1, True]}, {"a": [1.0, True]})
    assert not same({"a": 1}, {"a": True})
    assert not same([1], [1, 2])
    for wrong in ("a", "=1", ""):
        with pytest.raises(ValueError, match="dotted"):
            Match.of(wrong)


# ---------------------------------------------------------------------- times


def test_times_are_read_as_people_type_them() -> None:
    """How long ago, or when: in UTC unless it says otherwise."""
    assert moment("90s", NOW) == NOW - 90
    assert moment("1.5h", NOW) == NOW - 5_400
    assert moment("2023-11-14T22:13:20", NOW) == NOW
    assert moment("2023-11-14T23:13:20+01:00", NOW) == NOW
    for wrong in ("yesterday", "", "5", "5 parsecs"):
        with pytest.raises(ValueError, match="no time"):
            moment(wrong, NOW)
    assert [duration(each) for each in (0.25, 59.94, 3_600, 90_061)] == ["250 ms", "59.9 s", "1 h", "1 d 1 h"]


# ---------------------------------------------------------------------- groups


def test_letters_are_grouped_by_what_went_wrong_and_where() -> None:
    """The largest group comes first, with when it was seen, and the newest of its letters."""
    other = TRACEBACK.replace("line 12", "line 20")
    groups = groups_of(
        [
            a_letter(id="1", traceback=other),
            a_letter(id="2", first_failed_at=NOW - 90),
            a_letter(id="3", last_failed_at=NOW + 5, replays=1),
            a_letter(id="4", exception_type="", traceback="", reason=Reason.MALFORMED, first_failed_at=None),
        ]
    )
    assert [(group.what, group.place, group.count) for group in groups] == [
        ("shop.Refused", "shop/mail.py:12 send", 2),
        ("shop.Refused", "shop/mail.py:20 send", 1),
        ("malformed", "", 1),
    ]
    assert (groups[0].first_seen, groups[0].last_seen, groups[0].example) == (NOW - 90, NOW + 5, "3")
    assert groups[0].replayed == 1
    assert groups[2].first_seen == NOW


# ---------------------------------------------------------------------- JSON


@pytest.mark.parametrize("body", [b"", b"text", "ü€\u2028".encode(), b"\x00\xff", b"\xed\xa0\x80", b'{"a": "\\ud800"}'])
def test_a_letter_is_the_same_after_json(body: bytes) -> None:
    """No byte of its body, and no value of a header, is another one."""
    headers = {
        "text": "ü",
        "bytes": b"\xff",
        "number": 2**40,
        "real": 1.5,
        "truth": True,
        "nothing": None,
        "time": datetime(2026, 11, 30, tzinfo=UTC),
        "decimal": Decimal("1.50"),
        "list": [1, b"\x00", {"a": [False]}],
        "table": {"base64": "no bytes", "": {}},
    }
    began = datetime(2026, 11, 30, 8, 0, 0, 250_000, tzinfo=UTC)
    history = (Attempt(AttemptOutcome.CRASHED), Attempt(AttemptOutcome.FAILED, began, 1.25, "w:1", "E", "a.py:1 f", 2))
    letter = a_letter(
        body=body, headers=headers, crashes=2, replays=3, message_id=None, first_failed_at=NOW + 0.25, history=history,
        sent_at=began,
    )  # fmt: skip
    line = json_text(jsonform.written(letter))
    assert "\n" not in line
    assert jsonform.read(line) == letter
    bare = DeadLetter.from_headers(b"", {}, {})
    assert jsonform.read(json_text(jsonform.written(bare))) == bare


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"boddy": "x"}, "boddy"),
        ({"body": None}, "body_base64"),
        ({"body_base64": "eA=="}, "body_base64"),
        ({"body": None, "body_base64": "?"}, "no base64"),
        ({"reason": "lost"}, "reason"),
        ({"attempts": -1}, "attempts"),
        ({"attempts": True}, "attempts"),
        ({"task_id": 7}, "task_id"),
        ({"message_id": 7}, "message_id"),
        ({"headers": []}, "headers"),
        ({"headers": {"h": {"what": 1}}}, "'h'"),
        ({"headers": {"h": {"time": "noon"}}}, "'h'"),
        ({"headers": {"h": {"decimal": "x"}}}, "'h'"),
        ({"headers": {"h": {"table": 1}}}, "'h'"),
        ({"headers": {"h": {"base64": 1}}}, "'h'"),
        ({"first_failed_at": "noon"}, "first_failed_at"),
        ({"sent_at": "noon"}, "sent_at"),
        ({"first_failed_at": "0001-01-01T00:00:00+05:00"}, "first_failed_at"),
        ({"sent_at": "9999-12-31T23:59:59-05:00"}, "sent_at"),
        ({"history": {}}, "history"),
        ({"history": [{"outcome": "won"}]}, "outcome"),
        ({"history": [{"outcome": "failed", "when": 1}]}, "history"),
        ({"history": [{"outcome": "failed", "duration": -1}]}, "duration"),
    ],
)
def test_what_is_no_letter_is_named(change: dict[str, Any], said: str) -> None:
    """Lines that somebody wrote or mended by hand may be wrong anywhere."""
    line = json.dumps(jsonform.written(a_letter()) | change)
    with pytest.raises(ValueError, match=said):
        jsonform.read(line)
    for wrong in ("[]", "x", "{}", "[" * 100_000):
        with pytest.raises(ValueError, match=r"."):
            jsonform.read(wrong)


# ---------------------------------------------------------------------- text


HOSTILE = "\x1b]0;owned\x07\x1b[31m[bold]red[/bold]\r\x9b2J\u202e\u200b\ud800"


def test_no_text_of_a_letter_does_anything_to_a_terminal() -> None:
    """Escape sequences, other control characters and what turns the direction of writing are shown as what they are."""
    payload = json.dumps({"payload": {"x\x1b": HOSTILE}}).encode()
    for body in (payload, b"\xff\x1b[2J\x9b" * 5_000, HOSTILE.encode("utf-8", "surrogatepass")):
        letter = a_letter(
            body=body, headers={HOSTILE: HOSTILE, "b": b"\x1b"}, id=HOSTILE, task_id=HOSTILE, worker=HOSTILE,
            exception_type=HOSTILE, exception_message=HOSTILE, traceback=f"{HOSTILE}\n{HOSTILE}", source_queue=HOSTILE,
        )  # fmt: skip
        lines = list(lines_of(letter))
        assert all(line.isprintable() for line in lines)
        assert sum(map(len, lines)) < 12 * MOST_SHOWN
        for told in (jsonform.summary(letter), jsonform.written(letter)):
            assert all(part.isprintable() for part in json_text(told, indent=2).split("\n"))


def test_what_is_large_is_cut_and_says_so() -> None:
    """A body of megabytes does not flood the terminal."""
    lines = list(lines_of(a_letter(body=json.dumps({"payload": "x" * 5_000_000}).encode())))
    assert sum(map(len, lines)) < 3 * MOST_SHOWN
    assert sum("--raw" in line for line in lines) == 2
    assert any("5,000,015 bytes" in line for line in lines)


def test_a_letter_tells_why_it_ran_more_than_once() -> None:
    """Each run that is remembered says how it ended, and why there was another one: failures, deaths, replays."""
    began = datetime(2026, 11, 30, 8, tzinfo=UTC)
    run = "The run at 2026-11-30 08:00:00"
    history = (
        Attempt(AttemptOutcome.SNOOZED, began, 0.004),
        Attempt(AttemptOutcome.FAILED, began, 1.25, "w:1", "Refused", "a.py:12 send"),
        Attempt(AttemptOutcome.CRASHED, replays=0),
        Attempt(AttemptOutcome.TIMED_OUT, began, 10.0, "w:2", "TimeoutError", replays=1),
        Attempt(AttemptOutcome.FAILED, began, 1.0, "w:2", "Refused", replays=1),
    )
    assert story_of(a_letter(history=history, sent_at=began, replays=1, attempts=2)) == [
        "It was sent at 2026-11-30 08:00:00 UTC to queue mails.",
        f"{run} ended after 4 ms: it postponed itself, which counts no attempt. It ran again, since its time had come.",
        f"{run} on w:1 failed after 1.2 s (Refused in a.py:12 send). It ran again, since a run that fails is retried.",
        "The run ended with the death of its worker process.",
        "So it was a letter, and was sent back (once by then); its count of runs began anew.",
        f"{run} on w:2 timed out after 10.0 s (TimeoutError). It ran again, since a run that times out is retried.",
        f"{run} on w:2 failed after 1.0 s (Refused).",
        "It is a letter since 2023-11-14 22:13:20 UTC because its last run failed, in queue mails, on host:1.",
    ]
    forgotten = story_of(a_letter(history=history[3:], replays=1, attempts=40))
    assert forgotten[0] == "It ran 40 times since it was sent, or sent back last; 2 of these runs are remembered."
    assert forgotten[1] == "Before what is remembered it had been sent back from the dead letters once."


def test_what_an_older_version_wrote_is_told_in_counts() -> None:
    """Where no runs are remembered, their numbers are."""
    assert story_of(a_letter(crashes=2, replays=1)) == [
        "It had been sent back from the dead letters once.",
        "Its count of runs began anew then.",
        "It ran 6 times.",
        "A run that fails is retried as often as the task manager allows: it failed 4 times.",
        "A message whose worker process dies comes back to the next worker: that happened 2 times.",
        "It failed first at 2023-11-14 22:12:20 UTC.",
        "It is a letter since 2023-11-14 22:13:20 UTC because its last run failed, in queue mails, on host:1.",
    ]
    assert "It ran once." in story_of(a_letter(attempts=1))
    assert story_of(a_letter(reason=Reason.MALFORMED, attempts=0, first_failed_at=NOW, worker="")) == [
        "It is a letter since 2023-11-14 22:13:20 UTC because it is no task: no handler has seen it, in queue mails.",
    ]


def test_an_export_to_a_closed_output_does_not_say_that_it_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who deletes the letters after that would have none."""
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(click.UsageError, match="standard output is closed"):
        qbridge(["dlq", "export", "q.dead", "--url", "memory://"], standalone_mode=False)
